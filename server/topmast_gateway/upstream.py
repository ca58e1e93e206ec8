"""One try at one pod: the connection, the request, and what the failures of a try mean for the next one.

A miss is a failure before anything reached the client. Which miss may be tried again is decided in proxy.py.
"""

from __future__ import annotations

import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from topmast_gateway.asgi import Header
from topmast_gateway.routes import Pod

CONNECT_S = 2.0
_IDLE_S = 30.0  # below the engine's keep-alive, so that we close first and a reused connection is rarely dead
_LARGE_BYTES = 512 * 1024


class Miss(Exception):
    """A try that did not finish the answer. `kind` labels metrics; for `suspect_s` nobody should try this pod again.

    `ran`: the request may have been worked on, and may even be the reason. `broken`: it speaks against the pod itself.
    """

    kind = "miss"
    suspect_s = 0.0
    ran = False
    broken = False


class Refused(Miss):
    """No connection: the request certainly did not run."""

    kind = "refused"
    suspect_s = 1.0
    broken = True


class Unreachable(Refused):
    """Not even a refusal within the time to connect. It cost that time, so the pod is left alone for longer."""

    kind = "unreachable"
    suspect_s = 5.0


class NotServing(Miss):
    """The engine says that it is starting, leaving or broken. It did not run the request."""

    kind = "not_serving"
    suspect_s = 1.0


class Lost(Miss):
    """The connection broke before the answer was complete."""

    kind = "lost"
    ran = True
    broken = True


class EngineGone(Miss):
    """The engine itself says that it cannot finish: it is leaving, or its model process died."""

    kind = "engine_gone"
    suspect_s = 1.0
    ran = True


class Silent(Miss):
    """The connection stands and nothing comes: the pod, its node or the way there hangs."""

    kind = "silent"
    suspect_s = 5.0
    ran = True
    broken = True


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer of an engine."""

    status: int
    headers: list[Header]
    body: bytes


class Full(Miss):
    """The engine has no room. Its own answer says when to come back."""

    kind = "full"

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


def session() -> aiohttp.ClientSession:
    """Connections to engines: no cookies, no proxy, no decompression, no limit but the gateway's admission."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S, use_dns_cache=False, socket_factory=_socket)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )


@asynccontextmanager
async def posted(
    client: aiohttp.ClientSession, pod: Pod, path: str, body: bytes, headers: dict[str, str]
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send the request and give its response, headers read; a Miss where there is none to give.

    Leaving the block before the body's end closes the connection, which is how an engine learns that it may stop.
    """
    url = URL(f"http://{pod.address}{path}", encoded=True)
    data = body if len(body) <= _LARGE_BYTES else io.BytesIO(body)
    try:
        response = await client.post(url, data=data, headers=headers, allow_redirects=False)
    except aiohttp.ClientConnectorError as error:
        raise Refused(str(error)) from error
    except aiohttp.ConnectionTimeoutError as error:
        raise Unreachable(str(error)) from error
    except aiohttp.ClientError as error:
        raise Lost(f"{type(error).__name__}: {error}") from error
    try:
        yield response
    finally:
        response.close()  # after a complete body the connection is in the pool already, and this does nothing


async def whole(response: aiohttp.ClientResponse) -> Answer:
    """The complete answer, read before the client sees any of it."""
    try:
        body = await response.read()
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise Lost(f"{type(error).__name__}: {error}") from error
    return Answer(response.status, list(response.raw_headers), body)


def why_503(answer: Answer) -> Miss:
    """Whether an engine's 503 means that it is full, or that it is not serving at the moment."""
    try:
        code: Any = json.loads(answer.body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = None
    return NotServing(str(code)) if code in ("not_ready", "draining", "engine_failed") else Full(answer)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """Keep-alive probes find a lost node within 25 s; without them a silent generation would hide it."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000)
    return sock


def is_stream(response: aiohttp.ClientResponse) -> bool:
    """Server-sent events are passed on as they come; everything else is read first."""
    return response.content_type == "text/event-stream"
