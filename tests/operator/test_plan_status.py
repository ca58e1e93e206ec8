"""The status as a whole: counts, rates in a steady spelling, and what of it can wait for some seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from operatorlab.facts import NOW, engine, model, pod, revision, settled
from operatorlab.facts import plan as make

from topmast_operator.api.facts import Facts
from topmast_operator.api.times import to_text
from topmast_operator.plan.autoscale import ScaleDecision, ScaleMemory
from topmast_operator.plan.findings import Finding, Kind, Severity
from topmast_operator.plan.health import Health
from topmast_operator.plan.revision import revision_of
from topmast_operator.plan.rollout_state import How, Phase, Rollout
from topmast_operator.plan.status import STRAYS, render_status, without_cosmetics

OF = model(replicas=2)


def status(*pods: Any, of: Any = OF, **more: Any) -> dict[str, Any]:
    facts = Facts(of, NOW, (revision(of, len(pods)),), pods, **more)
    return dict(make(facts).status)


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ((), "0"),
        ((0.9,), "0"),
        ((1.0,), "1"),
        ((1.4,), "1"),
        ((99.4,), "99"),
        ((100.6,), "100"),
        ((123.0,), "120"),
        ((60.0, 62.0), "120"),
        ((1560.0,), "1600"),
    ],
)
def test_tokens_a_second_are_told_with_two_digits(rates: tuple[float, ...], told: str) -> None:
    pods = [pod(OF, number, engine=engine(output_tokens_per_s=rate)) for number, rate in enumerate(rates)]
    leaving = pod(OF, 8, deleting=True, engine=engine(output_tokens_per_s=500.0))
    ended = pod(OF, 9, ready=False, phase="Failed", engine=engine(output_tokens_per_s=500.0))
    assert status(*pods, pod(OF, 7), leaving, ended)["tokensPerSecond"] == told


def test_replicas_are_those_that_stay() -> None:
    shown = status(pod(OF), pod(OF, 1, ready=False), pod(OF, 2, deleting=True), pod(OF, 3, ready=False, phase="Failed"))
    assert (shown["replicas"], shown["readyReplicas"], shown["ready"]) == (2, 1, "1/2")
    drains = status(pod(OF), pod(OF, 1, draining=True))
    assert (drains["replicas"], drains["readyReplicas"]) == (2, 1), "one that is announced serves nobody new"


def test_strays_are_named_in_order_and_not_without_end() -> None:
    assert "strays" not in status(pod(OF))
    assert status(pod(OF), strays=("b", "a"))["strays"] == ["a", "b"]
    assert len(status(pod(OF), strays=tuple(f"s{number:02}" for number in range(30)))["strays"]) == STRAYS == 20


def health(stalled: bool, of: Any = OF) -> Health:
    found = Finding(Kind.IMAGE, "ImagePull", "No such image.", Severity.FINAL) if stalled else None
    rolled = Rollout({}, (), How.NONE, Phase.NONE, "")
    return Health(of, revision_of(of), 2, 0, 0, 0, (), rolled, found, False, None, None)


def test_each_revision_has_a_verdict() -> None:
    old = model(engine={"maxModelLen": 512})
    revisions = (
        revision(OF, 1, age_s=10, proven=False),
        revision(old, 1, age_s=50),
        replace(revision(old, 0, age_s=50, proven=False), revision="0000", name="m-0000"),
    )
    facts = Facts(OF, NOW, revisions, (pod(old), pod(old, 1, ready=False)))
    shown = render_status(health(stalled=False), facts, None)["revisions"]
    assert [item["name"] for item in shown] == ["0000", revision_of(old), revision_of(OF)], "by age, then by name"
    assert [item["verdict"] for item in shown] == ["Starting", "Proven", "Starting"]
    assert (shown[1]["replicas"], shown[1]["readyReplicas"], shown[1]["deployment"]) == (2, 1, revisions[1].name)
    failed = render_status(health(stalled=True), facts, None)["revisions"]
    assert [item["verdict"] for item in failed] == ["Starting", "Proven", "Failed"]
    assert failed[2]["message"] == "No such image." and "message" not in failed[1]
    serves = Facts(OF, NOW, (revision(OF, 1, proven=False),), (pod(OF),))
    assert render_status(health(stalled=False), serves, None)["revisions"][0]["verdict"] == "Proven"


def test_what_autoscaling_must_know_is_kept() -> None:
    facts = Facts(OF, NOW)
    plain = render_status(health(False), facts, ScaleDecision(ScaleMemory(3), "why"))["autoscaling"]
    assert plain == {"desiredReplicas": 3, "reason": "why", "specReplicas": 2}
    full = ScaleDecision(ScaleMemory(3, NOW - 5, NOW - 9), "why")
    kept = render_status(health(False), facts, full)["autoscaling"]
    assert (kept["lowSince"], kept["lastScaleTime"]) == (to_text(NOW - 5), to_text(NOW - 9))
    assert "autoscaling" not in render_status(health(False), facts, None)


def test_measurements_alone_can_wait() -> None:
    of = model(autoscaling={"maxReplicas": 3})
    now = dict(settled(of, 1).model.status)
    busy = {**now, "tokensPerSecond": "120", "autoscaling": {**now["autoscaling"], "reason": "another"}}
    other = [{**item, "message": "x"} if item["type"] == "AutoscalingActive" else item for item in now["conditions"]]
    assert without_cosmetics({**busy, "conditions": other}) == without_cosmetics(now)
    worse = [{**item, "message": "x"} if item["type"] == "Ready" else item for item in now["conditions"]]
    assert without_cosmetics({**now, "conditions": worse}) != without_cosmetics(now)
    scaled = {**now["autoscaling"], "desiredReplicas": 2}
    assert without_cosmetics({**now, "autoscaling": scaled}) != without_cosmetics(now)
    assert without_cosmetics({**now, "phase": "x"}) != without_cosmetics(now)
