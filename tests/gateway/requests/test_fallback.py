"""Another model answers while the one that was asked for cannot: when, by which name, and at whose cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.lab.pipelines import Way, way
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.identity.caller import Caller, Limits
from topmast_gateway.messages.errors import ApiError, ModelUnavailable, model_unavailable
from topmast_gateway.routing.model_status import ModelStatus
from topmast_gateway.routing.model_table import Model, ModelTable, Pod

ALICE = Caller("alice", limits=Limits(requests_per_minute=2, budget_tokens=1000))
FIRST = Model("ns", "first", fallbacks=("ns/second", "ns/third"), aliases=("gpt-4o",))
MODELS = (FIRST, Model("ns", "second"), Model("ns", "third"))
BODY = {"model": "first", "prompt": "x", "max_tokens": 10}


class Pods:
    """What each model's pods do, and what they were sent."""

    def __init__(self, **does: Exception) -> None:
        self._does = does
        self.asked: list[tuple[str, Any]] = []

    async def __call__(self, state: AnswerState, model: Model) -> None:
        self.asked.append((model.name, json.loads(state.body())["model"]))
        if error := self._does.get(model.name):
            raise error
        state.usage.prompt, state.usage.output, state.usage.exact = 3, 4, True
        state.writer.whole(200, model.key.encode())


def full(code: str = "queue_full") -> ModelUnavailable:
    return model_unavailable(code, f"no: {code}", 7)


async def test_the_first_fallback_that_can_answers_by_its_own_name_and_is_charged_once() -> None:
    pods = Pods(first=full(), second=full("no_ready_pod"))
    there = way(pods, models=MODELS)
    client = await there.ask(ALICE, BODY)
    assert (client.status, client.body) == (200, b"ns/third")
    assert pods.asked == [("first", "first"), ("second", "ns/second"), ("third", "ns/third")]
    assert there.accounting.quota.used(ALICE.accounts[0]) == 7
    assert counted(there, "topmast_gateway_fallbacks_total") == {
        ("ns/first", "ns/second", "queue_full"): 1,
        ("ns/first", "ns/third", "no_ready_pod"): 1,
    }
    await there.ask(ALICE, BODY)  # it was one request of the two that a minute may have
    with pytest.raises(ApiError, match="requests a minute"):
        await there.ask(ALICE, BODY)


async def test_where_none_can_the_refusal_is_that_of_the_model_that_was_asked_for() -> None:
    there = way(Pods(first=full(), second=full("x"), third=full("y")), models=MODELS)
    with pytest.raises(ModelUnavailable) as refused:
        await there.ask(ALICE, BODY)
    assert refused.value.code == "queue_full" and (b"retry-after", b"7") in refused.value.headers


@pytest.mark.parametrize("status", [400, 404, 429, 504])
async def test_what_is_about_the_request_or_its_caller_goes_nowhere_else(status: int) -> None:
    pods = Pods(first=ApiError(status, "x", "x"))
    with pytest.raises(ApiError) as refused:
        await way(pods, models=MODELS).ask(ALICE, BODY)
    assert refused.value.status == status and len(pods.asked) == 1


async def test_an_answer_that_was_started_is_not_started_again_by_another_model() -> None:
    async def breaks(state: AnswerState, model: Model) -> None:
        state.writer.stream([], b"data: {}\n\n")
        raise full()

    with pytest.raises(ModelUnavailable):
        await way(breaks, models=MODELS).ask(ALICE, BODY)


@pytest.mark.parametrize(
    "facts",
    [
        {"suspended": True},
        {"status": ModelStatus("it cannot start", stalled=True)},
        {"sleeps": True, "status": ModelStatus("asleep", asleep=True)},
        {},
    ],
    ids=["suspended", "stalled", "asleep", "no pod"],
)
async def test_nobody_waits_for_a_pod_while_a_fallback_has_one(facts: dict[str, Any]) -> None:
    first = Model("ns", "first", fallbacks=FIRST.fallbacks, **facts)
    pods = Pods()
    there = way(pods, _places(lambda: there), models=MODELS)
    there.cluster.routes = ModelTable((first, *MODELS[1:]), [Pod("u", "ns", "p", "ns/third", "127.0.0.1:1")])
    assert (await there.ask(ALICE, BODY)).body == b"ns/third"
    assert [name for name, _ in pods.asked] == ["third"] and there.metrics.held == 0


async def test_an_engine_is_asked_by_a_name_that_it_knows() -> None:
    pods = Pods()
    there = way(pods, models=MODELS)
    for asked in ("gpt-4o", "ns/gpt-4o", "ns/first", "first"):
        await there.ask(Caller("any"), {**BODY, "model": asked})
    assert pods.asked == [("first", "ns/first")] * 3 + [("first", "first")]


def _places(there: Callable[[], Way]) -> Callable[[str, int], int]:
    """As many as a model has pods."""

    def places(model: str, running: int) -> int:
        route = there().cluster.routes.by_key(model)
        return (len(route.pods) if route else 0) - running

    return places


def counted(there: Way, name: str) -> dict[tuple[str, ...], float]:
    """A counter's samples by the values of its labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in there.metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }
