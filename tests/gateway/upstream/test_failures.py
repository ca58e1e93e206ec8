"""What an engine does wrong, and what the client sees of it: nothing, where there was a way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from gateway.lab.engines import Engine, free_address
from gateway.lab.stage import KEY, Gateway, Stage, seconds_at_the_gateway, soon
from topmast_gateway.upstream.connection_pool import CONNECT_S
from topmast_gateway.upstream.failures import ConnectionRefused, Unreachable

CHAT = "/v1/chat/completions"


def cast(stage: Stage, gateway: Gateway, namespace: str, *ips: str) -> str:
    """A model with a pod at each address."""
    stage.model(namespace, "m")
    for ip in ips:
        stage.pod(namespace, "m", ip)
    gateway.sees(f"{namespace}/m", len(ips))
    return f"{namespace}/m"


@pytest.mark.parametrize("mode", ["full", "not_ready", "draining", "engine_failed", "broken", "reset"])
@pytest.mark.parametrize("stream", [False, True])
async def test_another_pod_takes_what_one_cannot(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient, mode: str, stream: bool
) -> None:
    async with Engine(mode) as bad, Engine() as good:
        model = cast(stage, gateway, namespace, bad.ip, good.ip)
        answers = [await http.post(CHAT, json={"model": model, "stream": stream}) for _ in range(4)]
        assert [response.status_code for response in answers] == [200] * 4
        assert bad.asked >= 1 and good.asked == 4


async def test_a_pod_that_refuses_connections_is_avoided_for_a_while(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine() as good:
        model = cast(stage, gateway, namespace, free_address(), free_address(), good.ip)
        start = time.monotonic()
        answers = [await http.post(CHAT, json={"model": model}) for _ in range(10)]
        assert [response.status_code for response in answers] == [200] * 10
        # Both were tried once, and again only after a while, not before each request.
        times = 1 + int((time.monotonic() - start) / ConnectionRefused.avoid_s)
        assert 2 <= gateway.metric("topmast_gateway_retries_total", model=model, kind="refused") <= 2 * times


@pytest.fixture
def lost_node() -> Iterator[str]:
    """An address that answers nothing: its queue of connections is full, so the kernel drops what comes."""
    ip = free_address()
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind((ip, 8000))
        listener.listen(0)
        for _ in range(3):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((ip, 8000))
        yield ip


async def test_a_lost_node_delays_one_request_and_then_no_other(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient, lost_node: str
) -> None:
    async with Engine() as good:
        model = cast(stage, gateway, namespace, lost_node, good.ip)
        start = time.monotonic()
        answers = [await http.post(CHAT, json={"model": model}) for _ in range(8)]
        assert [response.status_code for response in answers] == [200] * 8
        times = 1 + int((time.monotonic() - start) / Unreachable.avoid_s)  # the second one on a busy machine
        tried = gateway.metric("topmast_gateway_retries_total", model=model, kind="unreachable")
        assert 1 <= tried <= times
        assert sum(response.elapsed.total_seconds() > CONNECT_S - 0.1 for response in answers) >= tried


async def test_the_restart_of_the_only_engine_is_a_pause_not_an_error(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine() as first:
        model = cast(stage, gateway, namespace, first.ip)
        assert (await http.post(CHAT, json={"model": model})).status_code == 200
    # The kubelet has not noticed yet: the pod still counts as ready, and nobody listens.
    waiting = asyncio.create_task(http.post(CHAT, json={"model": model}))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    async with Engine("not_ready", ip=first.ip) as second:
        await soon(lambda: second.asked > 0, "the restarted engine is tried")
        second.mode = "stream"
        await soon(waiting.done, "it is answered", 2.5)
        assert (await waiting).status_code == 200


async def test_when_all_are_full_the_client_hears_it_at_once_with_the_engines_own_retry_after(
    stage: Stage, gateway: Gateway, access_log: Path, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine("full") as one, Engine("full") as two:
        model = cast(stage, gateway, namespace, one.ip, two.ip)
        response = await http.post(CHAT, json={"model": model})
        assert (response.status_code, response.headers["retry-after"]) == (503, "7")
        assert response.json()["error"]["code"] == "server_full"
        assert (one.asked, two.asked) == (1, 1) and seconds_at_the_gateway(access_log, response) < 1.5


async def test_a_request_that_kills_engines_kills_three_at_most(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine("reset") as a, Engine("reset") as b, Engine("reset") as c, Engine("reset") as d:
        model = cast(stage, gateway, namespace, a.ip, b.ip, c.ip, d.ip)
        response = await http.post(CHAT, json={"model": model})
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_lost")
        assert a.asked + b.asked + c.asked + d.asked == 3


async def test_a_connection_that_breaks_once_costs_the_only_pod_nothing(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine("reset", times=1) as engine:
        model = cast(stage, gateway, namespace, engine.ip)
        assert (await http.post(CHAT, json={"model": model})).status_code == 200 and engine.asked == 2


async def test_a_torn_stream_ends_in_an_error_event_and_never_within_an_event(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine("tear") as engine:
        model = cast(stage, gateway, namespace, engine.ip)
        async with http.stream("POST", CHAT, json={"model": model, "stream": True}) as response:
            events = [json.loads(line[6:]) async for line in response.aiter_lines() if line]
        assert [event.get("number") for event in events] == [0, 1, None]
        assert events[-1]["error"]["code"] == "stream_lost"
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client:
            stream = await client.chat.completions.create(model=model, messages=[], stream=True)
            with pytest.raises(openai.APIError, match="not complete"):
                async for _ in stream:
                    pass
        assert gateway.metric("topmast_gateway_upstream_errors_total", model=model, kind="torn") == 2
        assert engine.asked == 2  # after the first byte nothing is tried again


async def test_a_silent_stream_ends_after_the_progress_timeout(
    stage: Stage, impatient: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    url = impatient.url + CHAT
    async with Engine("silent") as never, Engine("stall") as stalls:
        stage.model(namespace, "never")
        stage.pod(namespace, "never", never.ip)
        model = cast(stage, impatient, namespace, stalls.ip)
        body = {"model": f"{namespace}/never", "stream": True}
        unanswered, stalled = await asyncio.gather(
            http.post(url, json=body), http.post(url, json={"model": model, "stream": True})
        )
        assert (unanswered.status_code, unanswered.json()["error"]["code"]) == (504, "upstream_timeout")
        assert stalled.status_code == 200 and '"stream_lost"' in stalled.text.splitlines()[-2]
        assert never.asked == stalls.asked == 1
        for response in (unanswered, stalled):
            assert 2.9 < response.elapsed.total_seconds() < 10
        await soon(lambda: len(never.abandoned_at) == len(stalls.abandoned_at) == 1, "both engines are asked to stop")


async def test_a_slow_stream_that_moves_is_not_cut(
    stage: Stage, impatient: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine(chunks=40, pause_s=0.1) as engine:  # 4 s in all, where 3 s of silence would end it
        model = cast(stage, impatient, namespace, engine.ip)
        response = await http.post(impatient.url + CHAT, json={"model": model, "stream": True})
        assert response.text.rstrip().endswith("data: [DONE]")
