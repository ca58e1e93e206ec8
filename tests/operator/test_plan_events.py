"""Which change of status is news, and which is none: an Event is written once for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from topmast_operator.plan.events import Event, events_of

Status = dict[str, Any]


def status(*conditions: tuple[str, str, str], **more: Any) -> Status:
    """A status of revision r1 with these conditions: type, status, reason."""
    told = [
        {"type": kind, "status": value, "reason": reason, "message": f"{reason}."} for kind, value, reason in conditions
    ]
    return {"revision": "r1", "conditions": told, "pods": [], **more}


def news(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[bool, str, str]]:
    return [(event.warning, event.reason, event.action) for event in events_of(before, after)]


def test_a_new_revision_is_told_with_the_one_before() -> None:
    assert events_of({}, status()) == (Event(False, "NewRevision", "Rollout", "The spec asks for revision r1."),)
    (told,) = events_of(status(revision="r0"), status())
    assert told.message == "The spec asks for revision r1, after r0."
    assert news(status(), status()) == []


def scaled(desired: int | None) -> Status:
    return status(autoscaling={"reason": "up."} | ({} if desired is None else {"desiredReplicas": desired}))


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [(1, 2, "ScaledUp"), (2, 1, "ScaledDown"), (2, 2, None), (None, 2, None), (2, None, None)],
)
def test_scaling_is_told_when_the_number_changes(before: int | None, after: int | None, reason: str | None) -> None:
    assert news(scaled(before), scaled(after)) == ([(False, reason, "Autoscale")] if reason else [])


def rolling(strategy: str, **more: Any) -> Status:
    return status(rollout={"strategy": strategy, "reason": "why", **more})


@pytest.mark.parametrize(
    ("strategy", "warns"),
    [("Surge", False), ("Replace", False), ("Recreate", False), ("Wait", True), ("Rollback", True)],
)
def test_a_strategy_is_told_once_and_what_stops_a_rollout_is_a_warning(strategy: str, warns: bool) -> None:
    assert news(status(), rolling(strategy)) == [(warns, strategy, "Rollout")]
    assert news(rolling("Paused"), rolling(strategy)) == [(warns, strategy, "Rollout")]
    assert news(rolling(strategy), rolling(strategy, reason="another")) == []
    assert news(rolling(strategy), status()) == []


def test_the_expected_gap_is_told_where_there_is_one() -> None:
    assert events_of(status(), rolling("Recreate", expectedGapSeconds=40))[0].message == "why; expected gap 40 s"
    assert events_of(status(), rolling("Replace", expectedGapSeconds=0))[0].message == "why"


def test_a_measured_gap_is_told_once() -> None:
    last = {"measuredGapSeconds": 12, "expectedGapSeconds": 40}
    (told,) = events_of(status(), status(lastRollout=last))
    assert (told.warning, told.reason) == (False, "GapMeasured")
    assert told.message == "Nothing answered for 12 s, 40 s were expected; requests were held."
    assert events_of(status(lastRollout=last), status(lastRollout=last)) == ()
    (told,) = events_of(status(lastRollout=last), status(lastRollout={"measuredGapSeconds": 3}))
    assert told.message == "Nothing answered for 3 s; requests were held."


def test_each_stray_pod_is_named_once() -> None:
    told = events_of(status(strays=["a"]), status(strays=["a", "b"]))
    assert [(event.warning, event.reason, "Pod b " in event.message) for event in told] == [(True, "StrayPod", True)]
    assert len(events_of(status(), status(strays=["a", "b"]))) == 2
    assert events_of(status(strays=["a"]), status()) == ()


def restarted(restarts: int | None, reason: str = "EngineCrash", name: str = "p") -> list[Status]:
    counted = {} if restarts is None else {"restarts": restarts, "lastEndReason": reason, "lastEnd": "It ended."}
    return [{"name": name, **counted}]


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [(None, None, False), (None, 1, True), (1, 1, False), (1, 2, True), (2, 1, False)],
)
def test_a_restart_is_told_with_the_engines_last_words(before: int | None, after: int | None, told: bool) -> None:
    seen = events_of(status(pods=restarted(before)), status(pods=restarted(after)))
    assert seen == ((Event(True, "EngineCrash", "Restart", "It ended."),) if told else ())


def test_a_restart_of_a_pod_that_was_not_known_is_told_and_one_that_says_nothing_is_not() -> None:
    assert news(status(), status(pods=restarted(1))) == [(True, "EngineCrash", "Restart")]
    assert news(status(pods=restarted(5, name="other")), status(pods=restarted(1))) != []
    assert news(status(), status(pods=restarted(1, reason=""))) == []
    assert news(status(), status(pods=[{"name": "p", "restarts": 1}])) == []


def test_a_restart_that_a_condition_tells_already_is_not_told_twice() -> None:
    stalled = ("Stalled", "True", "EngineCrash")
    assert news(status(), status(stalled, pods=restarted(1))) == [(True, "EngineCrash", "Observe")]
    other = ("Stalled", "False", "EngineCrash")
    assert (True, "EngineCrash", "Restart") in news(status(), status(other, pods=restarted(1)))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, ("True", "Serving"), (False, "Ready")),
        (("False", "Starting"), ("True", "Serving"), (False, "Ready")),
        (("True", "Serving"), ("True", "Serving"), None),
        (("True", "Serving"), ("True", "Sleeping"), (False, "Sleeping")),
        (("True", "Serving"), ("False", "Unschedulable"), (True, "NotReady")),
        (("True", "Serving"), ("False", "RollingOut"), (False, "NotReady")),
        (("True", "Serving"), ("False", "Draining"), (False, "NotReady")),
        (("True", "Serving"), ("False", "Starting"), (False, "NotReady")),
        (("True", "Sleeping"), ("False", "Waking"), (False, "NotReady")),
        (("False", "Starting"), ("False", "Unschedulable"), None),
        (("False", "Starting"), ("False", "ImagePull"), (True, "ImagePull")),
        (("False", "ImagePull"), ("False", "ImagePull"), None),
        (("False", "ImagePull"), ("False", "ContainerConfig"), (True, "ContainerConfig")),
        (None, ("False", "Starting"), None),
    ],
)
def test_ready_is_news_when_it_turns(
    before: tuple[str, str] | None, after: tuple[str, str], told: tuple[bool, str] | None
) -> None:
    was = status(("Ready", *before)) if before else status()
    assert news(was, status(("Ready", *after))) == ([(*told, "Observe")] if told else [])


@pytest.mark.parametrize(
    ("kind", "bad", "good"),
    [
        ("Stalled", "True", "False"),
        ("ModelAvailable", "False", "True"),
        ("CapacityAvailable", "False", "True"),
        ("AcceleratorUsed", "False", "True"),
        ("AccessResolved", "False", "True"),
    ],
)
def test_what_is_wrong_is_told_when_it_begins_and_when_its_reason_changes(kind: str, bad: str, good: str) -> None:
    assert news(status(), status((kind, bad, "One"))) == [(True, "One", "Observe")]
    assert news(status((kind, bad, "One")), status((kind, bad, "One"))) == []
    assert news(status((kind, bad, "One")), status((kind, bad, "Two"))) == [(True, "Two", "Observe")]
    assert news(status((kind, good, "Two")), status((kind, bad, "Two"))) == [(True, "Two", "Observe")]
    assert news(status((kind, bad, "One")), status((kind, good, "Two"))) == []
    assert news(status(), status((kind, "Unknown", "One"))) == []


def test_who_else_scales_a_model_is_told_once() -> None:
    kind = "AutoscalingActive"
    assert news(status(), status((kind, "True", "ScalingTwice"))) == [(True, "ScalingTwice", "Autoscale")]
    assert news(status((kind, "True", "ScalingTwice")), status((kind, "True", "ScalingTwice"))) == []
    assert news(status(), status((kind, "True", "ScaleIgnored"))) == [(True, "ScaleIgnored", "Autoscale")]
    assert news(status(), status((kind, "True", "Scaling"))) == []
