"""What counts as done, as returning, as stalled: the words that all conditions are told from."""

from __future__ import annotations

from typing import Any

import pytest
from operatorlab.facts import model, pod

from topmast_operator.api.resource import Model
from topmast_operator.plan.conditions import conditions, phase
from topmast_operator.plan.findings import Finding, Kind, Severity
from topmast_operator.plan.health import Health
from topmast_operator.plan.rollout_state import How, Phase, Rollout, RolloutMemory
from topmast_operator.plan.sleep import SleepPhase, SleepState

PLAIN = Rollout({}, (), How.NONE, Phase.NONE, "only one revision runs")
FINAL = Finding(Kind.IMAGE, "ImagePull", "No such image.", Severity.FINAL)
HEALS = Finding(Kind.CAPACITY, "Unschedulable", "No room.")


def health(of: Model | None = None, wanted: int = 1, **more: Any) -> Health:
    """As it is when all is well, but for what is given."""
    of = of or model(replicas=wanted)
    plain: dict[str, Any] = {
        "ready": wanted,
        "ready_new": wanted,
        "present": wanted,
        "pods": [pod(of, number) for number in range(wanted)],
        "rollout": PLAIN,
        "finding": None,
        "given_up": False,
        "room": None,
        "autoscaling_reason": "as it is" if of.autoscaling else None,
    }
    return Health(model=of, revision="r", wanted=wanted, **{**plain, **more})


def told(of: Health, kind: str) -> tuple[bool | None, str, str]:
    (found,) = [item for item in conditions(of) if item.type == kind]
    return found.status, found.reason, found.message


def rolling(how: How, phase: Phase = Phase.SWAPPING, gap_s: float | None = None) -> Rollout:
    return Rollout({}, (), how, phase, "the reason", memory=RolloutMemory("r", phase, 0.0, None, gap_s))


def asleep(state: SleepPhase = SleepPhase.ASLEEP) -> SleepState:
    return SleepState(state, 0.0, "no request came for 600 s")


def test_all_is_done_when_as_many_are_ready_and_no_others_are_there() -> None:
    assert health(wanted=2).settled
    assert not health(wanted=2, ready_new=1).settled and not health(wanted=2, present=3).settled
    assert health(wanted=2, ready_new=3).settled


def test_with_autoscaling_the_least_number_is_enough() -> None:
    of = model(autoscaling={"minReplicas": 2, "maxReplicas": 5})
    grows: dict[str, Any] = {"ready": 2, "ready_new": 2, "present": 3, "pods": [pod(of, number) for number in range(3)]}
    assert health(of, 3, **grows).enough == 2 and health(of, 3, **grows).settled
    assert not health(of, 3, **{**grows, "ready_new": 1, "ready": 1}).settled
    assert not health(of, 3, **{**grows, "ready": 3}).settled, "an older revision serves still"
    assert not health(of, 3, **{**grows, "present": 4}).settled, "one leaves still"
    assert health(of, 1).enough == 1
    assert health(of, 0, present=0).settled and not health(of, 0, present=1).settled


def test_what_returns_is_not_stalled_before_it_is_back() -> None:
    back = rolling(How.ROLLBACK, Phase.RETURNING)
    assert health(rollout=back, ready=0, finding=FINAL).returning
    assert health(rollout=back, ready=0, finding=FINAL).stalled is None
    assert not health(rollout=back, finding=FINAL).returning and health(rollout=back, finding=FINAL).stalled is FINAL
    assert health(wanted=2, rollout=back, ready=1, finding=FINAL).stalled is None
    swap = rolling(How.RECREATE)
    assert health(rollout=swap, ready=0, finding=FINAL).stalled is FINAL
    assert health(finding=HEALS).stalled is None and health().stalled is None


SLEEPER = model(sleep={}, replicas=0)
SCALED = model(autoscaling={"minReplicas": 1, "maxReplicas": 5})
PHASES: tuple[tuple[str, Health], ...] = (
    ("Ready", health()),
    ("Stalled", health(finding=FINAL, ready=0, ready_new=0)),
    ("Scaled to 0", health(wanted=0)),
    ("Draining", health(wanted=0, present=1)),
    ("Suspended", health(model(suspend=True), 0)),
    ("Sleeping", health(SLEEPER, 0, sleep=asleep())),
    ("Draining", health(SLEEPER, 0, present=1, sleep=asleep())),
    ("Pending", health(finding=HEALS, ready=0, ready_new=0)),
    ("ImageLater", health(finding=Finding(Kind.IMAGE, "ImageLater", "."), ready=0, ready_new=0)),
    ("Starting", health(finding=HEALS, present=2, pods=[pod(model()), pod(model(), 1)])),
    ("Waking", health(SLEEPER, 1, ready=0, ready_new=0, sleep=asleep(SleepPhase.WAKING))),
    ("Starting", health(ready=0, ready_new=0)),
    ("Starting", health(wanted=2, ready_new=1, present=2)),
    ("Rolling out", health(present=2)),
)


@pytest.mark.parametrize(("word", "of"), PHASES)
def test_the_phase_is_one_word_or_two(word: str, of: Health) -> None:
    assert phase(of) == word


READY: tuple[tuple[bool | None, str, Health], ...] = (
    (True, "Serving", health()),
    (True, "Serving", health(wanted=2, present=3)),
    (True, "Serving", health(SCALED, 3, ready=1, ready_new=1)),
    (True, "Sleeping", health(SLEEPER, 0, sleep=asleep())),
    (True, "Sleeping", health(SLEEPER, 0, present=1, sleep=asleep())),
    (False, "ImagePull", health(SLEEPER, 0, sleep=asleep(), finding=FINAL)),
    (True, "NoReplicasWanted", health(wanted=0)),
    (False, "Draining", health(wanted=0, present=1)),
    (False, "ImagePull", health(wanted=0, finding=FINAL)),
    (False, "ImagePull", health(finding=FINAL, ready=0, ready_new=0)),
    (False, "Unschedulable", health(wanted=2, finding=HEALS, ready=1, ready_new=1)),
    (True, "Serving", health(finding=HEALS)),
    (False, "RollingOut", health(ready_new=0, rollout=rolling(How.SURGE))),
    (False, "RollingOut", health(wanted=2, ready=3, rollout=rolling(How.SURGE))),
    (False, "Starting", health(ready=0, ready_new=0)),
    (False, "Waking", health(SLEEPER, 1, ready=0, ready_new=0, sleep=asleep(SleepPhase.WAKING))),
)


@pytest.mark.parametrize(("status", "reason", "of"), READY)
def test_ready(status: bool | None, reason: str, of: Health) -> None:
    assert told(of, "Ready")[:2] == (status, reason)


AVAILABLE: tuple[tuple[bool | None, str, str, Health], ...] = (
    (True, "Answering", "1 of 1 replica is answering.", health()),
    (True, "Answering", "2 of 2 replicas are answering, 1 with an older revision.", health(wanted=2, ready_new=1)),
    (True, "Sleeping", "a request through the gateway wakes one", health(SLEEPER, 0, ready=0, sleep=asleep())),
    (False, "NoReplicasWanted", "No replica is wanted", health(wanted=0, ready=0)),
    (False, "Recreate", "for about 40 s: the reason", health(ready=0, rollout=rolling(How.RECREATE, gap_s=40.0))),
    (False, "Recreate", "No replica answers: the reason", health(ready=0, rollout=rolling(How.RECREATE))),
    (False, "Rollback", "No replica answers: the reason", health(ready=0, rollout=rolling(How.ROLLBACK))),
    (False, "Unschedulable", "No room.", health(ready=0, rollout=rolling(How.ROLLBACK), finding=HEALS)),
    (False, "Unschedulable", "No room.", health(ready=0, finding=HEALS)),
    (False, "Starting", "The first replica is starting.", health(ready=0)),
)


@pytest.mark.parametrize(("status", "reason", "words", "of"), AVAILABLE)
def test_available(status: bool | None, reason: str, words: str, of: Health) -> None:
    found = told(of, "Available")
    assert found[:2] == (status, reason) and words in found[2]


RECONCILING: tuple[tuple[bool | None, str, Health], ...] = (
    (False, "Done", health()),
    (False, "Stalled", health(finding=FINAL, ready=0, ready_new=0)),
    (False, "Done", health(finding=HEALS)),
    (True, "Progressing", health(finding=Finding(Kind.CONFIG, "NameTaken", "."))),
    (True, "Surge", health(ready_new=0, rollout=rolling(How.SURGE))),
    (True, "Progressing", health(ready=0, ready_new=0)),
)


@pytest.mark.parametrize(("status", "reason", "of"), RECONCILING)
def test_reconciling(status: bool | None, reason: str, of: Health) -> None:
    assert told(of, "Reconciling")[:2] == (status, reason)


def test_stalled_says_how_it_goes_on() -> None:
    assert told(health(finding=HEALS), "Stalled")[:2] == (False, "NotStalled")
    assert told(health(finding=FINAL), "Stalled")[2].endswith("Once that is mended it goes on by itself.")
    given_up = told(health(finding=FINAL, given_up=True), "Stalled")[2]
    assert "Nothing is tried until the spec changes" in given_up and "annotate llm m topmast.dev/retry" in given_up
    probed = Rollout({}, (), How.ROLLBACK, Phase.RETURNING, "why", check=True)
    assert "A check pod looks" in told(health(finding=FINAL, given_up=True, rollout=probed), "Stalled")[2]


def test_the_model_is_missing_loaded_or_not_known() -> None:
    for kind in (Kind.MODEL, Kind.CLAIM):
        found = Finding(kind, "Missing", "Not there.")
        assert told(health(finding=found), "ModelAvailable") == (False, "Missing", "Not there.")
    assert told(health(finding=HEALS), "ModelAvailable")[:2] == (True, "Loaded")
    assert told(health(), "ModelAvailable")[2] == "1 replica has loaded it and generated with it."
    assert told(health(wanted=2), "ModelAvailable")[2].startswith("2 replicas have ")
    assert told(health(ready=0), "ModelAvailable")[:2] == (None, "NotLoadedYet")


def waiting(count: int, of: Model | None = None) -> list[Any]:
    return [pod(of or model(), number, ready=False, node=None, scheduled=False) for number in range(count)]


CAPACITY: tuple[tuple[bool | None, str, str, Health], ...] = (
    (True, "Placed", "1 replica has a node.", health()),
    (False, "Unschedulable", "No room.", health(finding=HEALS)),
    (
        False,
        "Unschedulable",
        "1 of 2 replicas find no node. No room. Add a node, lower",
        health(wanted=2, finding=HEALS, pods=[pod(model()), *waiting(1)]),
    ),
    (
        False,
        "NoSuitableNode",
        "1 of 1 replicas find no node. No label.",
        health(finding=Finding(Kind.NODES, "NoSuitableNode", "No label."), pods=waiting(1)),
    ),
    (None, "MakingRoom", "1 of 1 replicas wait for the room", health(pods=waiting(1), rollout=rolling(How.RECREATE))),
    (None, "NotScheduledYet", "has not placed", health(pods=waiting(1))),
    (None, "NotScheduledYet", "has not placed", health(pods=[])),
    (None, "NotNeeded", "No replica is to be placed", health(wanted=0)),
    (None, "NotNeeded", "No replica is to be placed", health(finding=FINAL)),
)


@pytest.mark.parametrize(("status", "reason", "words", "of"), CAPACITY)
def test_capacity(status: bool | None, reason: str, words: str, of: Health) -> None:
    found = told(of, "CapacityAvailable")
    assert found[:2] == (status, reason) and words in found[2]


def test_autoscaling_is_active_while_it_scales() -> None:
    assert told(health(), "AutoscalingActive")[:2] == (False, "NotConfigured")
    assert told(health(SCALED), "AutoscalingActive") == (True, "Scaling", "As it is. spec.replicas is not used.")
    sleeper = model(autoscaling={"maxReplicas": 2}, sleep={})
    assert told(health(sleeper, 0, sleep=asleep()), "AutoscalingActive")[:2] == (False, "Sleeping")
    suspended = model(autoscaling={"maxReplicas": 2}, suspend=True)
    assert told(health(suspended, 0), "AutoscalingActive")[:2] == (False, "Suspended")


@pytest.mark.parametrize(
    ("present", "words"), [(1, "1 replica finishes what runs"), (2, "2 replicas finish what runs")]
)
def test_a_model_that_nobody_wants_says_how_many_finish(present: int, words: str) -> None:
    assert told(health(wanted=0, present=present), "Ready")[2].startswith(words)
