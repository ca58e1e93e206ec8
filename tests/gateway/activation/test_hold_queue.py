"""What waiting clients are told, and the bounds of the waiting hall: values and places, without a network."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest

from topmast_gateway.activation.hold_queue import HoldQueue, retry_after, too_late
from topmast_gateway.kubernetes.resources import model_of
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.routing.model_status import ModelStatus, model_status

BEGAN, BEGAN_UNIX = "2026-01-01T00:00:00Z", 1_767_225_600.0
WAKING = {"state": "Waking", "since": BEGAN, "reason": "a request"}
USUAL = {"p50Seconds": 20, "p90Seconds": 30}


def loading(percent: int, eta_s: int) -> dict[str, Any]:
    return {"name": "p", "phase": "Loading", "percent": percent, "etaSeconds": eta_s}


@pytest.mark.parametrize(
    ("status", "after_s", "line", "eta_s"),
    [
        ({"sleep": {**WAKING, "state": "Asleep"}, "start": USUAL}, 500, "asleep, about 30 s", 30),
        ({"sleep": {**WAKING, "state": "Asleep"}}, 500, "asleep", None),
        ({"sleep": WAKING, "start": USUAL}, 12, "waking, about 18 s", 18),
        ({"sleep": WAKING, "start": USUAL, "pods": [loading(62, 5)]}, 12, "loading weights, 62 %, about 18 s", 18),
        ({"sleep": WAKING, "start": USUAL, "pods": [loading(90, 5)]}, 99, "loading weights, 90 %, about 5 s", 5),
        ({"sleep": WAKING, "start": USUAL, "pods": [{"phase": "Warming up"}]}, 99, "warming up", None),
        ({"sleep": WAKING, "pods": [{"phase": "Unschedulable"}]}, 3, "waiting for a node", None),
        ({"sleep": WAKING, "pods": [{"phase": "ImagePullBackOff"}]}, 3, "starting", None),
        ({"pods": [loading(20, 40), {"phase": "Unschedulable"}]}, 0, "loading weights, 20 %, about 40 s", 40),
        ({"pods": [{"phase": "Ready"}, {"phase": "Draining"}]}, 0, "no replica is ready", None),
        ({"pods": [loading(50, 10)]}, 0, "loading weights, 50 %, about 10 s", 10),
        ({"conditions": [{"type": "Stalled", "status": "True"}]}, 0, "it cannot start", None),
        ({"conditions": [{"type": "Stalled", "status": "True"}], "pods": [{}]}, 0, "starting", None),
        ({}, 0, "no replica is ready", None),
    ],
)  # fmt: skip
def test_a_client_is_told_phase_percent_and_time_left(
    status: dict[str, Any], after_s: float, line: str, eta_s: float | None
) -> None:
    status = model_status(status)
    assert (status.text(BEGAN_UNIX + after_s), status.eta_s(BEGAN_UNIX + after_s)) == (line, eta_s)


def test_only_spec_sleep_makes_a_model_one_that_wakes_and_suspend_overrules_it() -> None:
    def model(**spec: Any) -> Any:
        return model_of({"metadata": {"namespace": "n", "name": "m"}, "spec": spec, "status": {"sleep": WAKING}})

    assert model(sleep={"idleSeconds": 600}).sleeps and model(sleep={}, replicas=0).status.phase == "waking"
    assert not model(replicas=0).sleeps and not model(sleep={}, suspend=True).sleeps


def test_a_refusal_carries_the_measured_time() -> None:
    refusal = too_late("m", ModelStatus("asleep", usual_s=33.2, asleep=True))
    assert (refusal.status, dict(refusal.headers)[b"retry-after"]) == (503, b"34")
    assert "about 34 s" in str(refusal)
    assert retry_after(ModelStatus()) == 5 and retry_after(ModelStatus(left_s=1e9)) == 600


def test_the_hall_bounds_requests_and_bytes_of_each_model_and_gives_everything_back() -> None:
    hold_queue = HoldQueue(2, max_bytes=100)
    with ExitStack() as inside:
        for _ in range(2):
            inside.enter_context(hold_queue.enter(hold_queue.ticket("m", 10), ModelStatus()))
        with pytest.raises(ApiError) as refused:
            inside.enter_context(hold_queue.enter(hold_queue.ticket("m", 10), ModelStatus(left_s=7)))
        assert (refused.value.status, dict(refused.value.headers)[b"retry-after"]) == (503, b"7")
        inside.enter_context(hold_queue.enter(hold_queue.ticket("other", 90), ModelStatus()))
        with pytest.raises(ApiError):
            inside.enter_context(hold_queue.enter(hold_queue.ticket("other", 11), ModelStatus()))
        inside.enter_context(hold_queue.enter(hold_queue.ticket("large", 1000), ModelStatus()))  # alone, it may
        assert (hold_queue.waiting("m"), hold_queue.waiting("other")) == (2, 1)
    assert (hold_queue.waiting("m"), hold_queue.waiting("other"), hold_queue.waiting("large")) == (0, 0, 0)


async def test_who_came_first_leaves_first_also_when_it_has_to_come_back() -> None:
    hold_queue, left = HoldQueue(10), []
    tickets = [hold_queue.ticket("m", 1) for _ in range(5)]

    async def visit(number: int) -> None:
        with hold_queue.enter(tickets[number], ModelStatus()):
            await asyncio.sleep(0)  # all are inside before anybody leaves
            await hold_queue.wait_turn(tickets[number])
            left.append(number)

    await asyncio.gather(*(visit(number) for number in (3, 0, 4, 1, 2)))
    assert left == [0, 1, 2, 3, 4]
