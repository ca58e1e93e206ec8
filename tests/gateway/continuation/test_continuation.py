"""An answer that was started is finished by another pod; the client sees one answer, and nothing of the change."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.lab.journaling import JournalEngine, numbers
from gateway.lab.stage import KEY, Gateway, Stage, soon

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "count"}]
_CONVERSATIONS = itertools.count(1)


@pytest.fixture(scope="module")
def hasty(new_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway that takes two seconds of silence for death."""
    return new_gateway("--silence-s", "2").wait_ready()


@pytest.fixture
async def hasty_http(hasty: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=hasty.url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


@asynccontextmanager
async def serving(stage: Stage, gateway: Gateway, namespace: str, *engines: JournalEngine) -> AsyncIterator[str]:
    """A model with these engines; the first one is asked first, because the others join after it is known."""
    key = f"{namespace}/m"
    stage.model(namespace, "m")
    async with AsyncExitStack() as stack:
        for count, engine in enumerate(engines, 1):
            await stack.enter_async_context(engine)
            stage.pod(namespace, "m", engine.ip)
            gateway.sees(key, count)
        yield key


def text(stream: str) -> str:
    events = [block.removeprefix("data: ") for block in stream.split("\n\n") if block and not block.startswith(":")]
    assert events[-1] == "[DONE]", stream
    return "".join(json.loads(event).get("text", "") for event in events[:-1])


def conversation() -> list[dict[str, str]]:
    return [{"role": "user", "content": f"count, for the {next(_CONVERSATIONS)}th time"}]


async def ask(http: httpx.AsyncClient, key: str, stream: bool, **fields: Any) -> httpx.Response:
    """A new conversation, which may begin at any pod: the same one would stay where it was."""
    return await http.post(CHAT, json={"model": key, "messages": conversation(), "stream": stream, **fields})


@pytest.mark.parametrize("mode", ["tear", "engine_lost", "draining_late"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_broken_answer_continues_elsewhere(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient, mode: str, stream: bool
) -> None:
    broken, sound = JournalEngine(mode), JournalEngine()
    async with serving(stage, gateway, namespace, broken, sound) as key:
        while not broken.asked:
            answer = await ask(http, key, stream)
            assert answer.status_code == 200
            assert (text(answer.text) if stream else answer.json()["text"]) == numbers(6)
        assert sound.continued_from[-1] == 2
        assert sound.bodies[-1]["continuation"]["created"] == 1_700_000_000
        assert gateway.metric("topmast_gateway_moves_total", model=key) == 1
        assert gateway.metric("topmast_gateway_move_gap_seconds_count", model=key) == 1
        assert "x-topmast-journal" not in answer.headers


async def test_an_answer_whose_engine_falls_silent_continues_elsewhere_in_the_time_that_its_client_has_left(
    stage: Stage, hasty: Gateway, namespace: str, hasty_http: httpx.AsyncClient
) -> None:
    broken, sound = JournalEngine("stall"), JournalEngine()
    async with serving(stage, hasty, namespace, broken, sound) as key:
        while {body["stream"] for body in broken.bodies} != {True, False}:
            kinds = (True, False) * 6  # at once: a pod that was silent is avoided for a while
            answers = await asyncio.gather(*(ask(hasty_http, key, stream, timeout=90) for stream in kinds))
            for stream, answer in zip(kinds, answers, strict=True):
                assert (text(answer.text) if stream else answer.json()["text"]) == numbers(6)
        first = {headers["x-request-id"]: float(headers["x-request-timeout"]) for headers in broken.headers}
        moved = [(headers, body) for headers, body in zip(sound.headers, sound.bodies, strict=True)
                 if headers["x-request-id"] in first]  # fmt: skip
        assert len(moved) == hasty.metric("topmast_gateway_moves_total", model=key) == broken.asked
        for headers, body in moved:
            assert len(body["continuation"]["token_ids"]) == 2
            began_s, went_on_s = first[headers["x-request-id"]], float(headers["x-request-timeout"])
            # Counted from the arrival at the gateway: two seconds of silence, and what a busy machine adds.
            assert 80 < began_s <= 90 and 60 < went_on_s < began_s - 1.9


async def test_every_engine_may_break_as_long_as_each_makes_a_token(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    engines = [JournalEngine("tear", chunks=12, made=1) for _ in range(2)]
    async with serving(stage, gateway, namespace, *engines) as key:
        assert text((await ask(http, key, True)).text) == numbers(12)
        assert sum(engine.asked for engine in engines) >= 11


async def test_a_request_that_breaks_every_engine_ends_after_three_tries(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    engines = [JournalEngine("tear", made=2), JournalEngine("tear", made=0), JournalEngine("tear", made=0)]
    async with serving(stage, gateway, namespace, *engines) as key:
        answers = [(await ask(http, key, True)).text for _ in range(3)]
        started = next(answer for answer in answers if '"0 "' in answer)
        assert text_before_error(started) in (numbers(2), numbers(4))  # it may come to the first one again
        assert json.loads(started.split("data: ")[-1])["error"]["code"] == "upstream_lost"
        # Three tries in a row that make nothing end a request; the first one's make two tokens.
        assert sum(engine.asked for engine in engines[1:]) <= 3 * 3 + 2 * engines[0].asked
        failed = sum("upstream_lost" in answer for answer in answers)
        assert gateway.metric("topmast_gateway_caller_requests_total", model=key, outcome="failed") == failed


def text_before_error(stream: str) -> str:
    events = [json.loads(block.removeprefix("data: ")) for block in stream.split("\n\n") if block.startswith("data: ")]
    return "".join(event.get("text", "") for event in events)


async def test_the_only_engine_may_come_back_and_finish(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    engine = JournalEngine("tear")
    async with serving(stage, gateway, namespace, engine) as key:
        async with http.stream("POST", CHAT, json={"model": key, "messages": MESSAGES, "stream": True}) as response:
            pieces = []
            async for piece in response.aiter_text():
                pieces.append(piece)
                engine.mode = "stream"
        assert text("".join(pieces)) == numbers(6)


async def test_an_engine_that_says_that_it_works_is_not_given_up(
    stage: Stage, hasty: Gateway, namespace: str, hasty_http: httpx.AsyncClient
) -> None:
    slow, other = JournalEngine("busy"), JournalEngine("busy")
    async with serving(stage, hasty, namespace, slow, other) as key:
        assert text((await ask(hasty_http, key, True)).text) == numbers(6)
        assert slow.asked + other.asked == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_about_the_request_is_not_tried_elsewhere(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient, stream: bool
) -> None:
    engines = [JournalEngine("deadline_exceeded"), JournalEngine("deadline_exceeded")]
    async with serving(stage, gateway, namespace, *engines) as key:
        answer = await ask(http, key, stream)
        if stream:
            assert text_before_error(answer.text) == numbers(2)
            error = json.loads(answer.text.split("data: ")[-1])["error"]
        else:
            assert answer.status_code == 504
            error = answer.json()["error"]
        assert error["code"] == "deadline_exceeded"
        assert sum(engine.asked for engine in engines) == 1


async def test_an_answer_that_cannot_be_continued_says_why_when_it_breaks(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    from gateway.lab.engines import Engine

    async with Engine("tear") as engine:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        answer = await ask(http, f"{namespace}/m", True, n=2)
        assert "x-topmast-journal" not in engine.headers[-1]
        error = json.loads(answer.text.split("data: ")[-1])["error"]
        assert error["code"] == "stream_lost"
        assert "several answers at once are not continued elsewhere" in error["message"]


async def test_a_client_that_leaves_ends_the_continued_answer_at_once(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    broken, sound = JournalEngine("tear", chunks=1000), JournalEngine(chunks=1000, pause_s=0.1)
    async with serving(stage, gateway, namespace, broken, sound) as key:
        while not broken.asked:
            async with http.stream(
                "POST", CHAT, json={"model": key, "messages": conversation(), "stream": True}
            ) as stream:
                async for piece in stream.aiter_text():
                    if '"5 "' in piece:
                        break
        await soon(lambda: sound.running == 0, "the engine was asked to stop", 1)


async def test_a_caller_cannot_bring_a_continuation_along(http: httpx.AsyncClient) -> None:
    answer = await ask(http, "any/m", True, continuation={"token_ids": [1]})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "reserved_field"
