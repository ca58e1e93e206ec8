"""How far a starting replica is, and what status shows of each pod."""

from __future__ import annotations

from typing import Any

import pytest
from operatorlab.facts import model, pod

from topmast_operator.api.facts import EngineState, PodFacts, Termination
from topmast_operator.plan.progress import describe, notable, slowest

OF = model()


def starting(phase: str, done: int = 0, total: int = 0, number: int = 0, **more: Any) -> PodFacts:
    return pod(OF, number, ready=False, engine=EngineState(phase, done, total, **more))


@pytest.mark.parametrize(
    ("done", "words"), [(0, "0%"), (49, "0%"), (50, "5%"), (449, "40%"), (450, "45%"), (1000, "100%"), (1200, "100%")]
)
def test_a_load_is_told_in_steps_of_five_percent(done: int, words: str) -> None:
    assert slowest([starting("loading", done, 1000)]) == f"Loading {words}"
    shown = describe(starting("loading", done, 1000))
    assert f"{shown['percent']}%" == words and shown["bytesDone"] == shown["percent"] * 10
    assert shown["bytesTotal"] == 1000


@pytest.mark.parametrize(("eta_s", "told"), [(0.0, 5), (2.0, 5), (7.4, 5), (7.6, 10), (12.4, 10), (12.6, 15)])
def test_the_time_left_is_told_in_steps_of_five_seconds(eta_s: float, told: int) -> None:
    of = starting("loading", 500, 1000, eta_s=eta_s)
    assert slowest([of]) == f"Loading 50% ({told} s left)" and describe(of)["etaSeconds"] == told
    assert "etaSeconds" not in describe(starting("loading", 500, 1000))


def test_the_replica_that_is_furthest_from_ready_is_told() -> None:
    phases = ["Starting", "Loading 0%", "Loading 50%", "Warming up", "Draining"]
    pods = [
        starting("draining", number=4),
        starting("warming", number=3),
        starting("loading", 500, 1000, number=2),
        starting("loading", 0, 1000, number=1),
        starting("starting", number=0),
    ]
    while pods:
        assert slowest(pods) == phases.pop(0)
        pods.pop()
    assert slowest([]) == ""
    assert slowest([pod(OF, engine=EngineState("loading", 0, 1000))]) == "", "it is ready"
    assert slowest([pod(OF, ready=False)]) == "" and slowest([starting("ready")]) == ""
    assert slowest([starting("loading")]) == "Loading", "of how much is not known yet"
    assert slowest([starting("loading", 500, -1)]) == "Loading"


def test_of_many_pods_those_furthest_from_ready_are_shown() -> None:
    many = [pod(OF, number) for number in range(30)]
    assert [item.name for item in notable(many)] == sorted(item.name for item in many)[:20]
    leaves, late, broken = pod(OF, 91, deleting=True), pod(OF, 92, ready=False), pod(OF, 93, restarts=2)
    shown = notable([*many, leaves, late, broken])
    assert {leaves.name, late.name, broken.name} <= {item.name for item in shown} and len(shown) == 20
    assert [item.name for item in shown] == sorted(item.name for item in shown)
    worse = pod(OF, 94, restarts=5)
    among = [pod(OF, number, restarts=1) for number in range(20)]
    assert worse in notable([*among, worse])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "Ready"),
        ({"deleting": True}, "Draining"),
        ({"draining": True}, "Draining"),
        ({"ready": False, "phase": "Failed", "ended_reason": "Evicted"}, "Evicted"),
        ({"ready": False, "phase": "Failed"}, "Failed"),
        ({"ready": False, "node": None, "gates": ("a",)}, "SchedulingGated"),
        ({"ready": False, "node": "n", "gates": ("a",), "phase": "Pending"}, "Pending"),
        ({"ready": False, "node": None, "scheduled": False}, "Unschedulable"),
        ({"ready": False, "engine": EngineState("warming")}, "Warming up"),
        ({"ready": False, "engine": EngineState("odd"), "phase": "Running"}, "Running"),
        ({"ready": False, "waiting_reason": "ErrImagePull", "phase": "Pending"}, "ErrImagePull"),
        ({"ready": False, "phase": "Pending"}, "Pending"),
    ],
)
def test_a_pods_phase_is_one_word(more: dict[str, Any], told: str) -> None:
    assert describe(pod(OF, **more))["phase"] == told


def test_only_what_is_known_is_shown() -> None:
    plain = describe(pod(OF))
    assert set(plain) == {"name", "revision", "phase", "node"} and "node" not in describe(pod(OF, node=None))
    assert "percent" not in describe(starting("loading")) and "percent" not in describe(starting("warming", 1, 2))
    assert "percent" not in describe(pod(OF, engine=EngineState("loading", 1, 2))), "it is ready"
    assert describe(pod(OF, engine=EngineState("ready", start_total_s=12.34)))["startSeconds"] == 12.3
    again = describe(pod(OF, restarts=1, last_terminated=Termination(1, "Error", "Segfault")))
    assert (again["restarts"], again["lastEndReason"]) == (1, "EngineCrash") and "Segfault" in again["lastEnd"]
    assert "lastEnd" not in describe(pod(OF, restarts=1))
