"""What one key, one pod, or a pause of the gateway itself does to everybody else: nothing."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from gateway.lab.engines import Engine
from gateway.lab.journaling import JournalEngine, numbers
from gateway.lab.stage import KEY, SECRET, SYSTEM, Gateway, Stage, hashed, soon

CHAT = "/v1/chat/completions"
MALLORY = "tm-" + "m" * 40


@pytest.fixture
async def mallory(stage: Stage, gateway: Gateway) -> AsyncIterator[str]:
    """A key with one request a minute."""
    known = gateway.metric("topmast_gateway_api_keys")
    entry = json.dumps({"hash": hashed(MALLORY), "requestsPerMinute": 1})
    stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"stringData": {"mallory": entry}})
    await soon(lambda: gateway.metric("topmast_gateway_api_keys") == known + 1, "the key is known")
    yield MALLORY
    stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"data": {"mallory": None}})
    await soon(lambda: gateway.metric("topmast_gateway_api_keys") == known, "it is gone")


async def opened(gateway: Gateway, key: str, *headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request whose body does not come."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"POST {CHAT} HTTP/1.1", "host: x", f"authorization: Bearer {key}", *headers, "", ""]
    writer.write("\r\n".join(lines).encode())
    return reader, writer


def asked(client: httpx.AsyncClient, model: str, count: int) -> list[Coroutine[Any, Any, httpx.Response]]:
    """Requests, every other one for a stream."""
    return [client.post(CHAT, json={"model": model, "stream": number % 2 == 0}) for number in range(count)]


def texts(answer: httpx.Response) -> str:
    """What a stream says."""
    lines = (line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {"))
    return "".join(json.loads(line).get("text", "") for line in lines)


async def status(reader: asyncio.StreamReader) -> int:
    return int((await asyncio.wait_for(reader.readline(), 20)).split()[1])


@pytest.mark.parametrize("framing", ["content-length: 8388608", "transfer-encoding: chunked"])
async def test_bodies_that_never_come_shut_nobody_out(
    stage: Stage, gateway: Gateway, namespace: str, framing: str
) -> None:
    """64 of them took the whole memory, in promises."""
    held, known = (gateway.metric(f"topmast_gateway_{name}") for name in ("requests_in_flight", "api_keys"))
    async with Engine() as engine, AsyncExitStack() as idle:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        for _ in range(64):
            _, writer = await opened(gateway, KEY, framing)
            idle.callback(writer.close)
        await soon(lambda: gateway.metric("topmast_gateway_requests_in_flight") - held == 48, "it has its share of 64")
        assert gateway.metric("topmast_gateway_body_bytes_reserved") == 0
        other = "tm-" + "o" * 40
        stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"stringData": {"other": hashed(other)}})
        async with httpx.AsyncClient(base_url=gateway.url, timeout=20, trust_env=False) as client:

            async def one() -> int:
                headers = {"Authorization": f"Bearer {other}"}
                return (await client.post(CHAT, json={"model": f"{namespace}/m"}, headers=headers)).status_code

            await soon(lambda: gateway.metric("topmast_gateway_api_keys") == known + 1, "the key is known")
            assert [await one() for _ in range(5)] == [200] * 5
        stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"data": {"other": None}})
    await soon(lambda: gateway.metric("topmast_gateway_requests_in_flight") == held, "all places are given back")


async def test_a_key_at_its_limit_is_refused_before_its_body(
    stage: Stage, gateway: Gateway, namespace: str, mallory: str
) -> None:
    """17 bodies of 8 MiB were read and decoded to be answered by 429, and other streams stood still for a second."""
    async with Engine() as engine:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        body = json.dumps({"model": f"{namespace}/m"})
        reader, writer = await opened(gateway, mallory, f"content-length: {len(body)}", "connection: close")
        writer.write(body.encode())
        assert await status(reader) == 200
        writer.close()
        for _ in range(3):
            reader, writer = await opened(gateway, mallory, "content-length: 8388608")
            assert await status(reader) == 429
            writer.close()
        assert engine.asked == 1


async def test_a_frozen_pod_is_left_within_seconds_by_a_gateway_that_has_just_started(
    stage: Stage, new_gateway: Callable[..., Gateway], namespace: str
) -> None:
    """It was waited for as for an engine of others: two minutes for a stream, twenty for a whole answer."""
    async with JournalEngine() as well, JournalEngine("silent") as frozen:
        stage.model(namespace, "m")
        for engine in (well, frozen):
            stage.pod(namespace, "m", engine.ip)
        fresh = new_gateway("--silence-s", "2", "--progress-timeout-s", "300", "--answer-timeout-s", "300").wait_ready()
        fresh.sees(f"{namespace}/m", 2)
        await asyncio.sleep(2)  # for its first look at the pods' pages
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=fresh.url, headers=headers, timeout=60, trust_env=False) as client:
            answers = await asyncio.gather(*asked(client, f"{namespace}/m", 6))
        assert [answer.status_code for answer in answers] == [200] * 6
        assert frozen.asked >= 1 and all("3 " in answer.text for answer in answers)
        fresh.close()


async def test_a_pause_of_the_gateway_moves_no_answer(
    stage: Stage, new_gateway: Callable[..., Gateway], namespace: str
) -> None:
    """Seven seconds without a processor, and all twenty streams of two healthy engines were started again elsewhere."""
    async with JournalEngine(chunks=80, pause_s=0.05) as one, JournalEngine(chunks=80, pause_s=0.05) as two:
        stage.model(namespace, "m")
        for engine in (one, two):
            stage.pod(namespace, "m", engine.ip)
        paused = new_gateway("--silence-s", "3").wait_ready()
        paused.sees(f"{namespace}/m", 2)
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=paused.url, headers=headers, timeout=60, trust_env=False) as client:
            answers = [asyncio.create_task(one) for one in asked(client, f"{namespace}/m", 8)]
            await soon(lambda: one.running + two.running == 8, "all are answered")
            paused.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(4.5)
            paused.process.send_signal(signal.SIGCONT)
            done = await asyncio.gather(*answers)
        assert [answer.status_code for answer in done] == [200] * 8
        assert paused.metric("topmast_gateway_moves_total") == paused.metric("topmast_gateway_retries_total") == 0
        assert one.asked + two.asked == 8
        paused.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_journal_with_a_wrong_line_costs_its_pod_and_nothing_is_repeated(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient, stream: bool
) -> None:
    async with JournalEngine("garbage") as wrong, JournalEngine() as well:
        stage.model(namespace, "m")
        for engine in (wrong, well):
            stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 2)
        answers = [await http.post(CHAT, json={"model": f"{namespace}/m", "stream": stream}) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4 and wrong.asked >= 1
        found = [texts(answer) if stream else answer.json()["text"] for answer in answers]
        assert found == [numbers(6)] * 4
        assert not any("SECRET" in line for line in gateway.lines)
