"""How the gateway itself goes: announced first, new requests taken for a moment, streams finished, exit code 0."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway.lab.engines import Engine
from gateway.lab.stage import KEY, Gateway, Stage, soon

CHAT = "/v1/chat/completions"


async def busy(stage: Stage, gateway: Gateway, namespace: str, engine: Engine) -> asyncio.Task[Any]:
    """A stream that runs through the gateway."""
    stage.model(namespace, "m")
    stage.pod(namespace, "m", engine.ip)
    gateway.sees(f"{namespace}/m", 1)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as http:
            return await http.post(gateway.url + CHAT, json={"model": f"{namespace}/m", "stream": True})

    asking = asyncio.create_task(ask())
    await soon(lambda: engine.running == 1, "the stream runs")
    return asking


async def test_sigterm_is_announced_first_and_finishes_every_stream(
    stage: Stage, new_gateway: Callable[..., Gateway], namespace: str
) -> None:
    gateway = new_gateway("--drain-notice-s", "3").wait_ready()
    headers = {"Authorization": f"Bearer {KEY}"}
    async with Engine("steps", chunks=60) as engine, httpx.AsyncClient(headers=headers, timeout=60) as other:
        stream = await busy(stage, gateway, namespace, engine)
        assert (await other.get(f"{gateway.url}/v1/models")).status_code == 200
        gateway.process.send_signal(signal.SIGTERM)
        await soon(lambda: gateway.ready() == 503, "not ready")
        async with httpx.AsyncClient(headers=headers, timeout=60) as new:
            asking = asyncio.create_task(new.post(gateway.url + CHAT, json={"model": f"{namespace}/m"}))
            await soon(lambda: engine.running == 2, "it takes a new request on a new connection")
            engine.gate.set()  # and the stream makes its next event
            late = await asking
        assert late.status_code == 200  # routing needs a moment to notice
        assert late.headers["connection"] == "close"  # the next one is to go to another gateway
        await soon(lambda: not _listens(gateway), "new connections are refused")
        assert gateway.ready() == 503  # the admin port answers to the end
        assert not stream.done()
        engine.mode = "stream"
        engine.gate.set()
        assert (await stream).text.rstrip().endswith("data: [DONE]")
        # The idle connection of the other client does not keep it.
        assert await asyncio.to_thread(gateway.process.wait, 20) == 0


def _listens(gateway: Gateway) -> bool:
    """Whether it takes new connections."""
    host, port = gateway.url.removeprefix("http://").split(":")
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port)), 30):
        return True
    return False


async def test_a_client_that_could_not_be_asked_to_close_may_use_its_connection_once_more(
    stage: Stage, new_gateway: Callable[..., Gateway], namespace: str
) -> None:
    gateway = new_gateway("--drain-notice-s", "0").wait_ready()
    headers, model = {"Authorization": f"Bearer {KEY}"}, {"model": f"{namespace}/m"}
    async with (
        Engine() as engine,
        httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=60) as idle,
        httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=60) as streaming,
    ):
        assert (await idle.get("/v1/models")).status_code == 200
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        engine.mode = "steps"
        async with streaming.stream("POST", CHAT, json={**model, "stream": True}) as stream:
            gateway.process.send_signal(signal.SIGTERM)
            await soon(lambda: not _listens(gateway), "new connections are refused")
            engine.mode = "stream"
            engine.gate.set()
            assert (await stream.aread()).rstrip().endswith(b"data: [DONE]")
        for client in (streaming, idle):
            again = await client.post(CHAT, json=model)  # on the connection that it has
            assert again.status_code == 200 and again.headers["connection"] == "close"
        assert await asyncio.to_thread(gateway.process.wait, 20) == 0


async def test_a_stream_without_end_keeps_it_no_longer_than_allowed(
    stage: Stage, new_gateway: Callable[..., Gateway], namespace: str
) -> None:
    gateway = new_gateway("--drain-notice-s", "0", "--drain-timeout-s", "1").wait_ready()
    async with Engine(chunks=10_000, pause_s=0.1) as engine:
        stream = await busy(stage, gateway, namespace, engine)
        start = time.monotonic()
        assert await asyncio.to_thread(gateway.stop) == 0
        assert 0.9 < time.monotonic() - start < 10
        with pytest.raises(httpx.TransportError):  # cut visibly, not ended as if complete
            await stream
        await soon(lambda: bool(engine.abandoned_at), "the engine knows")


async def test_a_second_signal_ends_it_at_once(
    stage: Stage, new_gateway: Callable[..., Gateway], namespace: str
) -> None:
    gateway = new_gateway().wait_ready()
    async with Engine(chunks=10_000, pause_s=0.1) as engine:
        stream = await busy(stage, gateway, namespace, engine)
        gateway.process.send_signal(signal.SIGTERM)
        await soon(lambda: gateway.ready() == 503, "leaving")
        start = time.monotonic()
        assert await asyncio.to_thread(gateway.stop) == 0
        assert time.monotonic() - start < 10  # of the thousand seconds that the stream has left
        with pytest.raises(httpx.TransportError):
            await stream


def start_and_fail(*flags: str, **env: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "topmast_gateway.cli", *flags]
    done = subprocess.run(command, env={"PATH": "", **env}, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--keys-secret"),
        (["--keys-secret", "No_Such"], "not a Kubernetes name"),
        (["--keys-secret", "k", "--port", "x"], "not a port"),
        (["--keys-secret", "k", "--hold-s", "nan"], "between 0 and 86400"),
        (["--keys-secret", "k", "--max-streams", "0"], "above 0"),
    ],
)
def test_a_wrong_flag_is_one_sentence_and_code_2(flags: list[str], says: str) -> None:
    code, text = start_and_fail(*flags)
    assert code == 2 and says in text and "Traceback" not in text


def test_a_taken_port_or_no_cluster_is_one_sentence_and_code_2() -> None:
    free = ["--keys-secret", "k", "--host", "127.0.0.1", "--admin-host", "127.0.0.1", "--admin-port", "0"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, text = start_and_fail(*free, "--port", str(taken.getsockname()[1]))
    assert code == 2 and "choose free ports" in text and "Traceback" not in text
    code, text = start_and_fail(*free, "--port", "0", KUBECONFIG="/nonexistent")
    assert code == 2 and "KUBECONFIG" in text and "Traceback" not in text
