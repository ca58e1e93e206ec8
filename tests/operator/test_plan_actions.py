"""What one pass does beside the rollout: budgets, ended pods, drains of others, and when it looks again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from operatorlab.facts import DEFAULTS, NOW, engine, model, pod, revision, settled
from operatorlab.facts import plan as make

from topmast_operator.api.facts import ClaimFacts, Facts, PodFacts, Room, WriteRefused
from topmast_operator.plan.decision import Decision, decide
from topmast_operator.plan.plan import KEPT_FAILED_PODS, STALLED_S, UNSETTLED_S, Plan
from topmast_operator.plan.revision import revision_of
from topmast_operator.plan.rollout_state import Phase
from topmast_operator.render.template import render_template

OF = model()
GPU = {"accelerator": {"count": 2}}


def planned(facts: Facts) -> Plan:
    return make(facts).plan


def decided(facts: Facts) -> Decision:
    name = revision_of(facts.model)
    return decide(facts, name, render_template(facts.model, name, DEFAULTS))


@pytest.mark.parametrize(("replicas", "budget"), [(0, False), (1, False), (2, True), (3, True)])
def test_a_budget_protects_two_replicas_or_more(replicas: int, budget: bool) -> None:
    assert planned(settled(model(replicas=replicas), replicas)).budget is budget


def test_a_name_that_others_have_is_not_written() -> None:
    for place in ("foreign", "leftover"):
        taken: dict[str, Any] = {place: ("Service", "PodDisruptionBudget")}
        made = planned(replace(settled(model(replicas=2), 2), **taken))
        assert (made.service, made.budget) == (False, False)
    assert planned(settled(model(replicas=2), 2)).service


def test_of_pods_that_ended_the_latest_few_are_kept() -> None:
    ended = [pod(OF, number, ready=False, phase="Failed", created_unix_s=NOW - number) for number in range(1, 6)]
    leaving = pod(OF, 9, ready=False, phase="Failed", deleting=True)
    made = planned(replace(settled(OF, 1), pods=(pod(OF), *ended, leaving)))
    assert KEPT_FAILED_PODS == 3
    assert made.delete == (("Pod", ended[3].name), ("Pod", ended[4].name))
    assert planned(replace(settled(OF, 1), pods=(pod(OF), *ended[:3]))).delete == ()


DRAINS = engine(phase="draining")


@pytest.mark.parametrize(
    ("more", "deleted"),
    [
        ({"engine": DRAINS}, True),
        ({"engine": replace(DRAINS, running=1)}, False),
        ({"engine": replace(DRAINS, waiting=1)}, False),
        ({"engine": DRAINS, "deleting": True}, False),
        ({"engine": DRAINS, "draining": True}, False),
        ({"engine": DRAINS, "ready": True}, False),
        ({"engine": engine()}, False),
        ({}, False),
    ],
)
def test_a_replica_that_somebody_else_drained_goes_when_its_work_is_done(more: dict[str, Any], deleted: bool) -> None:
    of = pod(OF, **{"ready": False, **more})
    assert planned(replace(settled(OF, 1), pods=(of,))).delete == ((("Pod", of.name),) if deleted else ())


def test_when_it_looks_again() -> None:
    assert planned(settled(OF, 1)).again_s is None, "an event will tell"
    assert planned(replace(settled(OF, 1), pods=(pod(OF, ready=False),))).again_s == UNSETTLED_S
    scaled = model(autoscaling={"maxReplicas": 2})
    assert planned(settled(scaled, 1)).again_s == UNSETTLED_S
    stuck = pod(OF, ready=False, waiting_reason="InvalidImageName")
    first = replace(settled(OF, 1), revisions=(revision(OF, 1, proven=False),), pods=(stuck,))
    assert planned(first).again_s == STALLED_S
    awake = {"state": "Awake", "since": "2027-01-15T07:00:00Z", "reason": "r"}
    for idle_s, again_s in ((100, UNSETTLED_S), (600, 60.0)):
        sleeper = model(sleep={"idleSeconds": idle_s})
        at = settled(sleeper, 1)
        at = replace(at, model=replace(at.model, status={**at.model.status, "sleep": awake}))
        at = replace(at, pods=(replace(at.pods[0], engine=engine(idle_s=1.0)),))
        assert planned(at).again_s == again_s
    asleep = {**awake, "state": "Asleep"}
    sleeper = replace(model(sleep={}, replicas=0), status={"sleep": asleep})
    assert planned(Facts(sleeper, NOW, (revision(sleeper, 0),))).again_s is None


def test_what_waits_for_room_is_told_when_some_comes_free() -> None:
    assert not planned(settled(OF, 1)).waits
    assert planned(replace(settled(OF, 1), pods=(pod(OF, ready=False),))).waits
    scaled = model(autoscaling={"maxReplicas": 2, "minReplicas": 1})
    grows = replace(settled(scaled, 1), pods=(pod(scaled), pod(scaled, 1, ready=False, node=None, scheduled=False)))
    assert planned(grows).waits


def test_proven_is_who_was_or_serves() -> None:
    assert planned(replace(settled(OF, 1), revisions=(revision(OF, 1, proven=False),))).proven == {revision_of(OF)}
    starts = replace(settled(OF, 1), revisions=(revision(OF, 1, proven=False),), pods=(pod(OF, ready=False),))
    assert planned(starts).proven == frozenset()
    assert planned(replace(starts, revisions=(revision(OF, 1),))).proven == {revision_of(OF)}


@pytest.mark.parametrize(
    ("spec", "status", "wanted"),
    [
        ({"replicas": 3}, {}, 3),
        ({"replicas": 3, "suspend": True}, {}, 0),
        ({"replicas": 3, "autoscaling": {"minReplicas": 2, "maxReplicas": 4}}, {}, 2),
        ({"replicas": 0, "sleep": {}}, {}, 0),
        ({"replicas": 0, "sleep": {}}, {"state": "Waking", "since": "2027-01-15T07:00:00Z", "reason": "r"}, 1),
        ({"replicas": 2, "sleep": {}}, {"state": "Asleep", "since": "2027-01-15T07:00:00Z", "reason": "r"}, 0),
        ({"replicas": 2, "sleep": {}}, {"state": "Waking", "since": "2027-01-15T07:00:00Z", "reason": "r"}, 2),
        ({"suspend": True, "autoscaling": {"maxReplicas": 4}}, {}, 0),
    ],
)
def test_the_number_that_is_wanted(spec: dict[str, Any], status: dict[str, Any], wanted: int) -> None:
    of = replace(model(**spec), status={"sleep": status} if status else {})
    assert decided(Facts(of, NOW)).wanted == wanted


def test_nothing_is_scaled_while_it_sleeps_or_is_suspended() -> None:
    suspended = decided(Facts(model(suspend=True, autoscaling={"maxReplicas": 4}), NOW)).autoscaling
    assert suspended is not None and "suspend" in suspended.reason
    asleep = {"sleep": {"state": "Asleep", "since": "2027-01-15T07:00:00Z", "reason": "r"}}
    of = replace(model(sleep={}, autoscaling={"minReplicas": 2, "maxReplicas": 4}), status=asleep)
    found = decided(Facts(of, NOW)).autoscaling
    assert found is not None and "sleeps" in found.reason and found.desired == 2
    assert decided(Facts(OF, NOW)).autoscaling is None


def crowded(*pods: PodFacts, **more: Any) -> bool:
    return decided(Facts(OF, NOW, (revision(OF, 1),), pods, **more)).situation.target.crowded


def waits(said: str, **more: Any) -> PodFacts:
    return pod(OF, **{"ready": False, "node": None, "scheduled": False, "unschedulable_message": said, **more})


def test_crowded_is_who_waits_for_what_a_leaving_replica_would_free() -> None:
    assert crowded(waits("1 Insufficient cpu.")) and not crowded(pod(OF)) and not crowded()
    assert not crowded(waits("1 Insufficient cpu.", gates=("a",))), "a gate is lifted by others"
    assert not crowded(waits("1 node(s) didn't match Pod's node affinity/selector."))
    assert not crowded(pod(OF, ready=False, phase="Pending", stuck_message="")), "it has a node"
    evicted = pod(OF, ready=False, phase="Failed", ended_reason="Evicted")
    assert not crowded(evicted)
    elsewhere = waits("1 node(s) had volume node affinity conflict, 1 Insufficient cpu.")
    assert crowded(elsewhere, claim=ClaimFacts("c", "Bound", ("ReadWriteOnce",)))
    assert not crowded(elsewhere, claim=ClaimFacts("c", "Bound", ("ReadWriteMany",))) and not crowded(elsewhere)


@pytest.mark.parametrize(("status", "counts"), [(399, False), (400, True), (422, True), (499, True), (500, False)])
def test_a_refused_write_of_this_pass_counts_as_pods_that_are_refused(status: int, counts: bool) -> None:
    refused = WriteRefused(status, "no")
    assert decided(Facts(OF, NOW, refused=refused)).situation.pods_refused == ("no" if counts else "")
    told = replace(revision(OF, 1), replica_failure="exceeded quota")
    assert decided(Facts(OF, NOW, (told,), refused=refused)).situation.pods_refused == "exceeded quota"


@pytest.mark.parametrize(("largest", "room"), [(0, False), (1, False), (2, True), (3, True)])
def test_there_is_room_where_one_node_has_enough_devices(largest: int, room: bool) -> None:
    of = model(resources=GPU)
    assert decided(Facts(of, NOW, room=Room(4, 8, 2, largest))).situation.room_for_one is room
    assert decided(Facts(of, NOW)).situation.room_for_one is None
    assert decided(Facts(OF, NOW, room=Room(4, 8, 2, largest))).situation.room_for_one is None


def test_what_is_counted_of_a_revision() -> None:
    pods = (
        pod(OF),
        pod(OF, 1, draining=True),
        pod(OF, 2, ready=False, node=None),
        pod(OF, 3, deleting=True),
        pod(OF, 4, deleting=True, leaves_by_unix_s=NOW - 60),
        pod(OF, 5, ready=False, phase="Failed"),
    )
    seen = decided(Facts(OF, NOW, (revision(OF, 3, proven=False),), pods)).situation.target
    assert (seen.replicas, seen.ready, seen.placed, seen.pods, seen.proven) == (3, 1, 2, 4, True)
    none = decided(Facts(OF, NOW)).situation.target
    assert (none.replicas, none.ready, none.pods, none.proven, none.created) == (0, 0, 0, False, NOW)


def test_a_pod_that_waits_for_room_hinders_nobody_and_one_that_is_wrong_does() -> None:
    wrong = pod(OF, 1, ready=False, waiting_reason="InvalidImageName")
    found = decided(Facts(OF, NOW, (revision(OF, 2),), (waits("1 Insufficient cpu."), wrong))).situation.findings
    assert [item.reason for item in found] == ["InvalidImage"]


def test_pods_are_announced_before_they_go_and_called_back_when_they_stay() -> None:
    of = model(replicas=1)
    three = replace(settled(of, 1), revisions=(revision(of, 3),), pods=tuple(pod(of, number) for number in range(3)))
    assert len(planned(three).drain) == 2 and planned(three).undrain == ()
    once = replace(three, pods=tuple(replace(item, draining=item.name in planned(three).drain) for item in three.pods))
    assert planned(once).drain == () and planned(once).undrain == ()
    back = replace(once, model=replace(model(replicas=3), status=once.model.status))
    assert planned(back).drain == () and len(planned(back).undrain) == 2


def test_the_announced_step_follows_at_once() -> None:
    old, new = model(resources=GPU, engine={"maxModelLen": 512}), model(resources=GPU)
    checked = replace(pod(new, ready=False, phase="Succeeded"), name="m-check")
    full = Room(0, 2, 1, 0)
    facts = Facts(replace(new, status={}), NOW, (revision(old, 1),), (pod(old),), room=full, check=checked)
    assert decided(facts).rollout.phase is Phase.ANNOUNCED and planned(facts).again_s == 0.0
