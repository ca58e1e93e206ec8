"""What a gateway reports of its queue: every request that waits, and each that went away until it comes back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from gateway.lab.exchanges import RecordingClient, a_writer
from gateway.lab.pipelines import way
from gateway.lab.stage import soon
from topmast_gateway.activation.hold import Hold
from topmast_gateway.activation.waker import Waker
from topmast_gateway.config import Timeouts
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.identity.caller import Caller
from topmast_gateway.identity.shared_token import SharedToken
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.request import Header
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.observability.backlog import Backlog
from topmast_gateway.requests import parse
from topmast_gateway.routing.model_table import Model, ModelTable, Pod

KEY = "ns/m"
BODY = json.dumps({"model": "m", "prompt": "word " * 400, "max_tokens": 50}).encode()
FIRST = ((b"x-stainless-retry-count", b"0"),)
AGAIN = ((b"x-stainless-retry-count", b"1"),)
PROMPT, ANSWER = len(BODY) // 4, 50


def a_request() -> CompletionRequest:
    return parse.parse_completion("/v1/completions", BODY)


def numbers(requests: int) -> dict[str, int]:
    """So many requests as the answer has them."""
    return {"requests": requests, "prompt_tokens": requests * PROMPT, "output_tokens": requests * ANSWER}


def reported(backlog: Backlog, *models: str) -> dict[str, Any]:
    """What `/queue` says, by model."""
    found: dict[str, Any] = json.loads(backlog.answer(models or (KEY,)))["models"]
    return found


class Gate:
    """A gateway's part before any pod: one place at the model, and those who ask for it."""

    def __init__(self, places: int = 1, timeouts: Timeouts | None = None, **sharing: float) -> None:
        self.way = way(self._answer, lambda _, running: places - running, timeouts=timeouts, **sharing)
        self.leave = asyncio.Event()

    def send(self, *headers: Header) -> asyncio.Task[RecordingClient]:
        return asyncio.create_task(self.way.ask(Caller("alice"), BODY, *headers))

    async def _answer(self, state: AnswerState, _: Model) -> None:
        await self.leave.wait()
        state.writer.whole(200, b"{}")

    def waiting(self) -> int:
        return int(reported(self.way.backlog).get(KEY, {"waiting": numbers(0)})["waiting"]["requests"])

    def gone(self) -> dict[str, int]:
        found: dict[str, int] = reported(self.way.backlog)[KEY]["gone"]
        return found


def test_a_request_counts_from_its_arrival_until_its_slot() -> None:
    now = 100.0
    backlog = Backlog("one", lambda: now)
    with backlog.waiting(KEY, a_request()) as waiting:
        now = 101.0
        with backlog.waiting(KEY, a_request()):
            now = 103.5
            assert reported(backlog)[KEY] == {"waiting": numbers(2), "oldest_s": 3.5, "gone": numbers(0)}
            waiting.served()
            waiting.served()
            assert reported(backlog)[KEY] == {"waiting": numbers(1), "oldest_s": 2.5, "gone": numbers(0)}
    assert reported(backlog) == {} and json.loads(backlog.answer(()))["replica"] == "one"


def test_who_went_away_counts_until_it_comes_back_and_once_alone() -> None:
    backlog = Backlog("one")
    with pytest.raises(TimeoutError), backlog.waiting(KEY, a_request()):
        raise TimeoutError
    assert reported(backlog)[KEY] == {"waiting": numbers(0), "oldest_s": 0, "gone": numbers(1)}
    with backlog.waiting(KEY, a_request(), again=True):
        assert reported(backlog)[KEY]["waiting"] == numbers(1)
        assert reported(backlog)[KEY]["gone"] == numbers(0)
    with pytest.raises(TimeoutError), backlog.waiting(KEY, a_request()) as waiting:
        waiting.served()
        raise TimeoutError  # an engine's fault: it had its slot
    assert reported(backlog) == {}


def test_a_model_that_was_deleted_is_forgotten_once_nobody_waits() -> None:
    backlog = Backlog("one")
    with pytest.raises(TimeoutError), backlog.waiting(KEY, a_request()):
        raise TimeoutError
    with backlog.waiting(KEY, a_request()):
        assert reported(backlog, "ns/another")[KEY]["gone"] == numbers(1)
    assert reported(backlog, "ns/another") == {} and reported(backlog) == {}


async def test_all_who_wait_for_a_slot_are_reported_with_the_tokens_that_they_will_take() -> None:
    gate = Gate()
    tasks = [gate.send() for _ in range(4)]
    await soon(lambda: gate.waiting() == 3, "one has the place")
    assert reported(gate.way.backlog)[KEY]["waiting"] == numbers(3)
    gate.leave.set()
    await asyncio.gather(*tasks)
    assert reported(gate.way.backlog) == {}


async def test_refused_timed_out_and_departed_clients_have_gone_until_they_ask_again() -> None:
    gate = Gate(timeouts=Timeouts(queue_s=0.2), queue_requests=2)
    holder = gate.send()
    await soon(lambda: bool(gate.way.dispatcher.waiting()), "it is there")
    late, departing = gate.send(*FIRST), gate.send()
    await soon(lambda: gate.waiting() == 2, "both wait")
    with pytest.raises(ApiError):
        await gate.send()
    assert gate.gone() == numbers(1)
    departing.cancel()
    await asyncio.gather(late, departing, return_exceptions=True)
    assert isinstance(late.exception(), ApiError) and gate.gone() == numbers(3) and gate.waiting() == 0
    back = gate.send(*AGAIN)
    await soon(lambda: gate.waiting() == 1, "it has come back")
    assert gate.gone() == numbers(2)
    gate.leave.set()
    await asyncio.gather(holder, back)
    assert gate.gone() == numbers(2)


async def test_what_a_model_s_answers_and_caches_were_like_is_in_the_numbers() -> None:
    gate = Gate()
    for _ in range(200):
        gate.way.accounting.estimates.learn(len(BODY), KEY, TokenUsage(prompt=1000, cached=900, output=30, exact=True))
    tasks = [gate.send() for _ in range(3)]
    await soon(lambda: gate.waiting() == 2, "one has the place")
    assert reported(gate.way.backlog)[KEY]["waiting"] == {"requests": 2, "prompt_tokens": 200, "output_tokens": 60}
    gate.leave.set()
    await asyncio.gather(*tasks)


async def test_who_waits_until_a_pod_comes_waits_too() -> None:
    model, backlog = Model("ns", "m"), Backlog("one")
    there = way(Gate()._answer)
    there.cluster.routes = ModelTable([model])
    state = AnswerState(a_request(), KEY, {}, a_writer(), TokenUsage(), None, lambda _: None)
    waker = Waker(None, there.metrics, SharedToken(), "")  # type: ignore[arg-type]
    with Hold(state, Timeouts(), there.cluster, backlog, waker, there.metrics, lambda: False) as hold:
        waiting = asyncio.create_task(hold.until_pod_usable())
        await soon(lambda: KEY in reported(backlog), "it waits")
        assert reported(backlog)[KEY]["waiting"] == numbers(1) and there.metrics.held == 1
        there.cluster.routes = ModelTable([model], [Pod("u", "ns", "p", KEY, "127.0.0.1:1")])
        await waiting
    assert reported(backlog) == {} and there.metrics.held == 0
