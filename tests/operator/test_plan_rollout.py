"""Rollouts, against a small model of the cluster that has only so much room: no promise may break on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operatorlab.facts import NOW, condition, model, pod, replicas, revision, settled
from operatorlab.facts import plan as make

from topmast_operator.api.facts import Facts, PodFacts, Room, Termination
from topmast_operator.api.resource import Model
from topmast_operator.plan.revision import revision_of

OLD: dict[str, Any] = {"model": {"source": "image:///models/old.gguf"}}
NEW: dict[str, Any] = {"model": {"source": "image:///models/new.gguf"}}
BAD = Termination(10, "Error", '{"code": "ModelCorrupt", "message": "new.gguf is cut off. Copy it again."}')


class Town:
    """The controllers' side in a few lines: pods follow Deployments, find room or not, get ready a round later."""

    def __init__(self, wanted: int, capacity: int) -> None:
        self.capacity = capacity
        self.facts = settled(model(replicas=wanted, **OLD), wanted)
        self.least_ready = wanted
        self.number = 100
        self.rounds = 0

    def ask_for(self, of: Model) -> None:
        self.facts = replace(self.facts, model=replace(of, status=self.facts.model.status))

    def step(self, broken: str = "") -> bool:
        """One reconcile and what the cluster makes of it; whether anything changed."""
        made = make(self.facts)
        before = self.facts
        revisions = {item.name: item for item in before.revisions if ("Deployment", item.name) not in made.changes.delete}
        for manifest in (*made.changes.grow, *made.changes.shrink):
            if manifest["kind"] == "Deployment":
                revisions[manifest["metadata"]["name"]] = self._stored(manifest, revisions)
        pods: list[PodFacts] = []
        for item in revisions.values():
            pods += self._pods_of(item.revision, item.replicas, broken)
        self.facts = replace(
            before,
            model=replace(before.model, status=made.status),
            revisions=tuple(revisions.values()),
            pods=tuple(pods),
        )
        self.least_ready = min(self.least_ready, self.ready())
        self.rounds += 1
        return self.facts.revisions != before.revisions or self.facts.pods != before.pods

    def run(self, broken: str = "") -> None:
        for _ in range(100):
            if not self.step(broken):
                return
        raise AssertionError(f"no end: {self.facts.pods}")

    def ready(self, of: Model | None = None) -> int:
        return sum(pod.ready for pod in self.facts.pods if of is None or pod.revision == revision_of(of))

    def names(self) -> set[str]:
        return {item.revision for item in self.facts.revisions}

    def _stored(self, manifest: Any, revisions: Any) -> Any:
        name, count = manifest["metadata"]["name"], manifest["spec"]["replicas"]
        annotations = manifest["metadata"]["annotations"]
        proven = annotations.get("topmast.dev/proven") == "true"
        failed = {"kind": "model", "reason": "ModelCorrupt", "message": "cut off", "retry": self.facts.model.retry}
        known = revisions.get(name) or revision(self.facts.model, 0, age_s=-self.rounds)
        return replace(
            known,
            replicas=count,
            proven=proven,
            failed=failed if "topmast.dev/failed" in annotations else None,
            live=manifest,
            template=manifest["spec"]["template"],
        )

    def _pods_of(self, name: str, count: int, broken: str) -> list[PodFacts]:
        mine = sorted(self.facts.pods_of(name), key=lambda pod: not pod.ready)[:count]
        aged = [self._aged(pod, broken) for pod in mine]
        while len(aged) < count:
            self.number += 1
            aged.append(
                replace(pod(self.facts.model, self.number), revision=name, ready=False, scheduled=None, node=None)
            )
        return aged

    def _aged(self, of: PodFacts, broken: str) -> PodFacts:
        if not of.scheduled:
            taken = sum(bool(pod.scheduled) for pod in self.facts.pods)
            if taken >= self.capacity:
                return replace(of, scheduled=False, unschedulable_message="0/1 nodes are available: 1 Insufficient cpu")
            return replace(of, scheduled=True, node="n1")
        if of.revision == broken:
            return replace(of, restarts=min(of.restarts + 1, 3), terminated=BAD, last_terminated=BAD)
        return replace(of, ready=True)


@given(st.integers(1, 6), st.integers(1, 3))
@settings(deadline=None, max_examples=40)
def test_with_room_no_rollout_lowers_capacity(wanted: int, spare: int) -> None:
    town = Town(wanted, wanted + spare)
    new = model(replicas=wanted, **NEW)
    town.ask_for(new)
    town.run()
    assert town.ready(new) == wanted and len(town.facts.pods) == wanted
    assert town.least_ready == wanted
    assert town.names() == {revision_of(new)}


@given(st.integers(1, 6))
@settings(deadline=None)
def test_without_room_one_replica_at_a_time_is_replaced(wanted: int) -> None:
    town = Town(wanted, wanted)
    new = model(replicas=wanted, **NEW)
    town.ask_for(new)
    town.run()
    assert town.ready(new) == wanted
    assert town.least_ready == wanted - 1
    assert town.names() == {revision_of(new)}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=5), st.integers(2, 8), st.data())
@settings(deadline=None, max_examples=60)
def test_any_series_of_changes_ends_with_what_was_asked_last(
    changes: list[tuple[int, int]], capacity: int, data: st.DataObject
) -> None:
    town = Town(2, capacity)
    last = town.facts.model
    for source, wanted in changes:
        last = model(replicas=min(wanted, capacity), model={"source": f"image:///models/{source}.gguf"})
        town.ask_for(last)
        for _ in range(data.draw(st.integers(1, 8))):
            town.step()
    town.run()
    assert town.ready(last) == last.replicas and len(town.facts.pods) == last.replicas


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_last_good_revision_is_never_removed(capacity: int) -> None:
    """A successor that cannot start is given up after three times, and the old one serves again or still."""
    town = Town(1, capacity)
    old, new = town.facts.model, model(**NEW)
    town.ask_for(new)
    for _ in range(30):
        town.step(broken=revision_of(new))
        assert revision_of(old) in town.names()
    assert town.ready(old) == 1 and town.ready(new) == 0
    assert capacity == 1 or town.least_ready == 1
    made = make(town.facts)
    assert condition(made, "Stalled")["status"] == "True"
    assert condition(made, "Reconciling")["status"] == "False"
    assert "topmast.dev/retry" in condition(made, "Stalled")["message"]


def test_another_try_is_a_new_value_of_the_annotation() -> None:
    town = Town(1, 2)
    new = model(**NEW)
    town.ask_for(new)
    town.run(broken=revision_of(new))
    assert town.ready(new) == 0
    town.ask_for(replace(new, retry="1"))
    town.run()
    assert town.ready(new) == 1 and town.names() == {revision_of(new)}


def test_a_successor_that_needs_more_takes_nothing_away_in_vain() -> None:
    old = model(resources={"accelerator": {"count": 1}}, **OLD)
    new = model(resources={"accelerator": {"count": 4}}, **NEW)
    waiting = pod(new, ready=False, scheduled=False, node=None, unschedulable_message="1 Insufficient nvidia.com/gpu")
    facts = Facts(
        new,
        NOW,
        revisions=(revision(old, 1, age_s=500), revision(new, 1, proven=False)),
        pods=(pod(old), waiting),
        room=Room(free=1, total=2, nodes=1, largest_free_on_a_node=1),
    )
    made = make(facts)
    assert replicas(made) == {}
    assert made.status["rollout"]["strategy"] == "Wait"
    assert "more nvidia.com/gpu (4, not 1)" in made.status["rollout"]["reason"]
    message = condition(made, "CapacityAvailable")["message"]
    assert "needs 4 nvidia.com/gpu; 1 of 2 are free on 1 nodes" in message


def test_no_free_gpu_is_seen_before_a_pod_is_made() -> None:
    old = model(resources={"accelerator": {"count": 1}}, replicas=2, **OLD)
    new = model(resources={"accelerator": {"count": 1}}, replicas=2, **NEW)
    full = Room(free=0, total=2, nodes=1, largest_free_on_a_node=0)
    made = make(Facts(new, NOW, (revision(old, 2),), (pod(old, 1), pod(old, 2)), room=full))
    assert made.status["rollout"]["strategy"] == "Replace"
    assert sorted(replicas(made).values()) == [1, 1]
    assert len(made.changes.drain) == 1
    alone = replace(new, replicas=1)
    made = make(Facts(alone, NOW, (revision(old, 1),), (pod(old, 1),), room=full))
    assert made.status["rollout"]["strategy"] == "Recreate"


def test_a_revision_that_never_started_makes_way_at_once() -> None:
    first, second, third = model(**OLD), model(**NEW), model(model={"source": "image:///models/3.gguf"})
    facts = Facts(
        third,
        NOW,
        revisions=(revision(first, 1, age_s=900), revision(second, 1, proven=False, age_s=100)),
        pods=(pod(first), pod(second, ready=False)),
    )
    changed = replicas(make(facts))
    assert changed == {f"m-{revision_of(second)}": 0, f"m-{revision_of(third)}": 1}
