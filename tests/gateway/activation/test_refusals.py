"""What clients see who wait for a model, or need not."""

from __future__ import annotations

from typing import Any

import pytest

from topmast_gateway.activation.refusals import never_starts, no_pod, retry_after_s
from topmast_gateway.kubernetes.resources import model_of
from topmast_gateway.routing.model_status import ModelStatus, model_status
from topmast_gateway.routing.model_table import Model

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
def test_a_client_sees_phase_percent_and_time_left(
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
    refusal = no_pod(Model("n", "m", sleeps=True), "m", ModelStatus("asleep", usual_s=33.2, asleep=True), 2.0)
    assert (refusal.status, refusal.code, dict(refusal.headers)[b"retry-after"]) == (503, "model_waking", b"34")
    assert "about 34 s" in str(refusal)
    assert no_pod(Model("n", "m"), "m", ModelStatus(), 2.0).code == "no_ready_pod"
    assert retry_after_s(ModelStatus()) == 5 and retry_after_s(ModelStatus(left_s=1e9)) == 600


def test_an_answer_that_was_started_is_not_given_up_because_its_model_cannot_start_another_pod() -> None:
    stalled = Model("n", "m", status=ModelStatus(stalled=True))
    for started, code in ((False, "model_stalled"), (True, None)):
        refusal = never_starts(stalled, started=started)
        assert (refusal.code if refusal else None) == code
    for started in (False, True):
        refusal = never_starts(Model("n", "m", suspended=True), started=started)
        assert refusal and refusal.code == "model_suspended"
