"""Streams pass as they are generated, and end at both sides when they end at one."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest

from gateway.lab.engines import Engine
from gateway.lab.stage import KEY, Gateway, Stage, soon

CHAT = "/v1/chat/completions"


async def test_the_first_event_arrives_before_the_last_is_made(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine("steps", chunks=20) as engine:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        seen: list[tuple[float, str]] = []
        async with http.stream("POST", CHAT, json={"model": f"{namespace}/m", "stream": True}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["x-engine"] == engine.ip
            async for line in response.aiter_lines():
                if line:
                    seen.append((time.monotonic(), line))
                    engine.gate.set()  # the next one is generated only now: were this one held back, nothing would come
        assert [json.loads(line[6:])["number"] for _, line in seen[:-1]] == list(range(20))
        assert seen[-1][1] == "data: [DONE]"
        assert min(came - sent for sent, (came, _) in zip(engine.sent_at, seen, strict=False)) < 0.05


async def test_a_client_that_leaves_stops_the_engine_at_once(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine(chunks=1000, pause_s=0.05) as engine:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        took: list[float] = []
        for turn in range(3):
            async with http.stream("POST", CHAT, json={"model": f"{namespace}/m", "stream": True}) as response:
                await anext(response.aiter_lines())
            left = time.monotonic()
            await soon(lambda turn=turn: len(engine.abandoned_at) > turn, "the engine knows")
            took.append(engine.abandoned_at[turn] - left)
        assert min(took) < 0.1, took  # the best of three: other tests share this machine
        model = f"{namespace}/m"
        await soon(lambda: gateway.metric("topmast_gateway_tokens_in_flight", model=model) == 0, "given back")
        count = "topmast_gateway_requests_total"
        await soon(lambda: gateway.metric(count, model=model, code="499") == 3, "counted as left")
        assert gateway.metric("topmast_gateway_time_to_first_token_seconds_count", model=model) == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_byte_stops_the_engine_too(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient, stream: bool
) -> None:
    async with Engine("silent") as engine:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        took: list[float] = []
        for turn in range(3):
            asking = asyncio.create_task(http.post(CHAT, json={"model": f"{namespace}/m", "stream": stream}))
            await soon(lambda: engine.running == 1, "the engine works")
            left = time.monotonic()
            asking.cancel()
            await soon(lambda turn=turn: len(engine.abandoned_at) > turn, "the engine knows")  # type: ignore[misc]
            took.append(engine.abandoned_at[turn] - left)
        assert min(took) < 0.1, took  # the best of three: other tests share this machine
        count = "topmast_gateway_requests_total"
        await soon(lambda: gateway.metric(count, model=f"{namespace}/m", code="499") == 3, "counted as left")


async def test_a_client_that_leaves_while_it_waits_for_a_pod_is_forgotten(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    stage.model(namespace, "m")
    gateway.sees(f"{namespace}/m", 0)
    asking = asyncio.create_task(http.post(CHAT, json={"model": f"{namespace}/m"}))
    await soon(lambda: gateway.metric("topmast_gateway_requests_held") == 1, "it waits")
    asking.cancel()
    await soon(lambda: gateway.metric("topmast_gateway_requests_held") == 0, "it is gone", 2)  # of 30


async def test_no_key_and_no_claimed_identity_reaches_an_engine(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    claims = {
        "X-Forwarded-For": "1.2.3.4", "Forwarded": "for=1.2.3.4", "X-Real-Ip": "1.2.3.4", "X-User-Id": "root",
        "X-Topmast-Key": "root", "OpenAI-Organization": "root", "Cookie": "a=b", "Proxy-Authorization": "x",
        "Connection": "keep-alive, X-Secret", "X-Secret": "1", "Te": "trailers", "traceparent": "00-1-2-3",
    }  # fmt: skip
    async with Engine() as engine:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        response = await http.post(CHAT, json={"model": f"{namespace}/m"}, headers={**claims, "X-Request-Id": "mine-7"})
        assert response.headers["x-request-id"] == "mine-7"
        (arrived,) = engine.headers
        assert KEY not in str(arrived)
        assert arrived["x-request-id"] == "mine-7" and arrived["traceparent"] == "00-1-2-3"
        allowed = "accept accept-encoding content-length content-type host traceparent user-agent x-request-id"
        assert set(arrived) <= {*allowed.split(), "x-topmast-journal"}
        again = await http.post(CHAT, json={"model": f"{namespace}/m"})
        assert again.headers["x-request-id"] == engine.headers[1]["x-request-id"] != ""


async def test_an_engines_own_error_comes_back_as_it_is(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine("bad_request") as engine, Engine() as other:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        stage.pod(namespace, "m", other.ip, ready=False)
        gateway.sees(f"{namespace}/m", 1)
        response = await http.post(CHAT, json={"model": f"{namespace}/m"})
        assert (response.status_code, response.json()["error"]["message"]) == (400, "too_long, says the engine")
        assert (engine.asked, other.asked) == (1, 0)


async def test_a_client_that_stops_reading_is_dropped_and_fills_no_memory(
    stage: Stage, impatient: Gateway, namespace: str
) -> None:
    gateway = impatient
    async with Engine("flood") as engine:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        before = gateway.resident_bytes()
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=65_536)
        body = json.dumps({"model": f"{namespace}/m", "stream": True})
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        assert b"200" in await reader.readline()  # and nothing more
        await soon(lambda: bool(engine.abandoned_at), "the engine is asked to stop", 20)
        assert gateway.resident_bytes() - before < 32 * 1024 * 1024
        await soon(lambda: gateway.metric("topmast_gateway_requests_in_flight") == 0, "the place is given back")
        writer.transport.abort()
