"""A connection of the gateway without a socket, and an application behind it: what it writes is kept."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Any

import httptools

from gateway.lab.pipelines import way
from gateway.lab.stage import KEY
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.http.app import App
from topmast_gateway.http.connection import Connection
from topmast_gateway.http.listener import Handler, Server
from topmast_gateway.identity.api_key_entry import ApiKey
from topmast_gateway.identity.api_keys import ApiKeys
from topmast_gateway.identity.auth_throttle import AuthThrottle
from topmast_gateway.identity.authenticator import Authenticator
from topmast_gateway.identity.caller import Caller
from topmast_gateway.identity.client_ip import TrustedProxies
from topmast_gateway.messages.errors import unavailable
from topmast_gateway.routing.model_table import Model


class Wire(asyncio.Transport):
    """A connection's other end: keeps what was written, and fails when something is written after its end."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.ended = False
        self.protocol: Connection

    def write(self, data: Any) -> None:
        assert not self.ended, f"{data!r} was written after the end"
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self._closing

    _closing = False

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Answers:
    """Reads what was written as a client would."""

    def __init__(self, written: bytes) -> None:
        self.statuses: list[int] = []
        parser = httptools.HttpResponseParser(self)
        self._parser = parser
        parser.feed_data(written)

    def on_status(self, status: bytes) -> None:
        self.statuses.append(self._parser.get_status_code())


async def talked(app: Handler, pieces: Iterable[bytes], turns: int = 3) -> tuple[bytes, list[str]]:
    """What came back for these pieces, and what the loop complained about. The loop turns so often after each."""
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
    wire = Wire()
    wire.protocol = Server(app)._connection()
    wire.protocol.connection_made(wire)
    for piece in pieces:
        if not wire.is_closing():
            wire.protocol.data_received(piece)
        for _ in range(turns):
            await asyncio.sleep(0)
    if not wire.is_closing():
        wire.protocol.eof_received()
        wire.close()
    for _ in range(10):
        await asyncio.sleep(0)
    return bytes(wire.written), complaints


async def no_pods(_: AnswerState, __: Model) -> None:
    """What stands behind the application: it has nobody to send a request to."""
    raise unavailable("no_ready_pod", "no pod is ready", 5)


def application() -> App:
    """The real one, with the key KEY and a model `m`."""
    there = way(no_pods, models=(Model("ns", "m"),))
    there.cluster._is_complete = True
    for informer in there.cluster.informers:
        informer.synced = True
    there.cluster.keys = ApiKeys([ApiKey(hashlib.sha256(KEY.encode()).digest(), Caller("fuzz"))])
    identity = Authenticator(there.cluster, there.metrics, TrustedProxies(), AuthThrottle(0), None)
    return App(there.cluster, identity, there.pipeline, there.metrics)
