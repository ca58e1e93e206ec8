"""What a rollout decides, row by row: every revision's replicas, what may be deleted, and how it is told.

A row is one situation at the level of `plan_rollout`; what leads there, step by step, is in test_plan_rollout.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from topmast_operator.api.facts import QuotaFacts
from topmast_operator.plan.findings import Finding, Kind, Severity
from topmast_operator.plan.give_way import Amounts, Strategy
from topmast_operator.plan.rollout import last_good, plan_rollout
from topmast_operator.plan.rollout_state import Phase, RevisionView, RolloutMemory, Situation

NOW = 1000.0
ONE_GPU = Amounts({"nvidia.com/gpu": "1"}, {})
TWO_GPUS = Amounts({"nvidia.com/gpu": "2"}, {})
FULL: Mapping[str, Any] = {"room_for_one": False, "checked": True}  # no room, and the check has passed
CRASH = Finding(Kind.CRASH, "Crashed", "It crashed.", Severity.FINAL)
NO_IMAGE = Finding(Kind.IMAGE, "ImagePull", "No such image.", Severity.FINAL)


def view(name: str, replicas: int, ready: int | None = None, **more: Any) -> RevisionView:
    """A revision whose pods all are there; `ready` of them serve, all by default."""
    ready = replicas if ready is None else ready
    plain: dict[str, Any] = {
        "placed": replicas,
        "pods": replicas,
        "proven": True,
        "created": 100.0,
        "crowded": False,
        "amounts": ONE_GPU,
    }
    return RevisionView(name, replicas, ready, **{**plain, **more})


def old(replicas: int = 1, ready: int | None = None, name: str = "old", **more: Any) -> RevisionView:
    return view(name, replicas, ready, **more)


def new(replicas: int = 0, ready: int = 0, **more: Any) -> RevisionView:
    return view("new", replicas, ready, **{"proven": ready > 0, "created": 200.0, **more})


def memory(phase: Phase, revision: str = "new", **more: Any) -> RolloutMemory:
    return RolloutMemory(revision, phase, **{"started": 900.0, **more})


ANNOUNCED, SWAPPING = memory(Phase.ANNOUNCED), memory(Phase.SWAPPING)


def at(wanted: int, target: RevisionView, *others: RevisionView, **more: Any) -> Situation:
    return Situation(wanted=wanted, target=target, others=others, now=NOW, **{"strategy": Strategy.AUTO, **more})


def told(now: Situation) -> str:
    """`Surge Surging: new=1 old=1 -gone check (refused_by)`."""
    plan = plan_rollout(now)
    counts = " ".join(f"{name}={count}" for name, count in sorted(plan.replicas.items()))
    gone = "".join(f" -{name}" for name in plan.delete)
    check = " check" if plan.check else ""
    refused = f" ({plan.refusal.check})" if plan.refusal else ""
    return f"{plan.how} {plan.phase}: {counts}{gone}{check}{refused}"


GONE = old(0, name="gone", proven=False, created=50.0)
EARLIER = (old(0, name="a", created=10.0), old(0, name="b", created=20.0), old(0, name="c", created=30.0))
QUOTA = QuotaFacts("team", {"requests.nvidia.com/gpu": "1"}, {"requests.nvidia.com/gpu": "1"})

ROWS: dict[str, tuple[Situation, str]] = {
    # who counts
    "a revision that serves counts although it was never marked as proven": (
        at(1, new(), old(proven=False)),
        "Surge Surging: new=1 old=1",
    ),
    "a proven one whose replicas were taken away counts while one still serves": (
        at(1, new(), old(0, 1, pods=1)),
        "Surge Surging: new=1 old=0",
    ),
    "one that never served is no reason to wait": (at(1, new(), old(1, 0, proven=False)), "None None: new=1 old=0"),
    "one that never served, and has no pods, may go": (
        at(1, new(), old(0, 0, proven=False)),
        "None None: new=1 old=0 -old",
    ),
    "nothing is wanted": (at(0, new(1, 1), old(2), GONE), "None None: gone=0 new=0 old=0 -gone"),
    "nothing is wanted: one with a pod is kept": (
        at(0, new(), old(0, 0, pods=1, proven=False), GONE),
        "None None: gone=0 new=0 old=0 -gone",
    ),
    # alone
    "a first revision": (at(3, new()), "None None: new=3"),
    "only one revision runs": (at(2, new(2, 2), history=1), "None None: new=2"),
    "in the room of those that have left": (at(2, new(), old(0)), "Recreate Swapping: new=2 old=0"),
    "as far as those that leave have left": (at(2, new(), old(0, 0, pods=1)), "Recreate Swapping: new=1 old=0"),
    "not before any has left": (at(2, new(), old(0, 0, pods=2)), "Recreate Swapping: new=0 old=0"),
    "not below none": (at(2, new(), old(0, 0, pods=3)), "Recreate Swapping: new=0 old=0"),
    "what has a node stays": (at(2, new(2, 0, placed=2), old(0, 0, pods=1)), "Recreate Swapping: new=2 old=0"),
    "not more than is wanted": (at(2, new(3, 0, placed=3), old(0)), "Recreate Swapping: new=2 old=0"),
    "of earlier revisions the latest are kept": (
        at(2, new(2, 2), *EARLIER, history=1),
        "None None: a=0 b=0 c=0 new=2 -b -a",
    ),
    "two of them where two are asked for": (at(2, new(2, 2), *EARLIER, history=2), "None None: a=0 b=0 c=0 new=2 -a"),
    "none where none is": (at(2, new(2, 2), *EARLIER, history=0), "None None: a=0 b=0 c=0 new=2 -c -b -a"),
    "none goes while a replica is missing": (at(2, new(2, 1), *EARLIER, history=1), "None None: a=0 b=0 c=0 new=2"),
    "none goes that has a pod": (
        at(1, new(1, 1), old(0, 0, name="a", pods=1, created=10.0), history=0),
        "None None: a=0 new=1",
    ),
    "one that never served goes even so": (
        at(2, new(2, 1), *EARLIER, GONE, history=3),
        "None None: a=0 b=0 c=0 gone=0 new=2 -gone",
    ),
    # surge
    "surge: one beside the old one": (at(1, new(), old()), "Surge Surging: new=1 old=1"),
    "surge: one beside two": (at(2, new(), old(2)), "Surge Surging: new=1 old=2"),
    "surge: that one starts": (at(2, new(1, 0), old(2)), "Surge Surging: new=1 old=2"),
    "surge: it is ready, an old one leaves": (at(2, new(1, 1), old(2)), "Surge Surging: new=2 old=1"),
    "surge: the next": (at(2, new(1, 1), old(1)), "Surge Surging: new=2 old=1"),
    "surge: the next starts": (at(2, new(2, 1), old(1)), "Surge Surging: new=2 old=1"),
    "surge: the last old one leaves": (at(2, new(2, 2), old(1)), "Surge Surging: new=2 old=0"),
    "surge: not beyond what is wanted": (at(2, new(2, 2), old(2)), "Surge Surging: new=2 old=0"),
    "surge: three at once are no surge of one": (at(4, new(3, 0), old(4)), "Surge Surging: new=1 old=4"),
    "surge: one that is there is kept while the surge allows it": (
        at(4, new(2, 0), old(3)),
        "Surge Surging: new=2 old=3",
    ),
    "surge: what is missing is made new": (at(4, new(), old(2)), "Surge Surging: new=2 old=2"),
    "surge: more are wanted": (at(5, new(1, 1), old(2)), "Surge Surging: new=3 old=2"),
    "surge: fewer are wanted": (at(1, new(), old(3)), "Surge Surging: new=1 old=1"),
    "surge: those that have no pods and never served go": (
        at(1, new(), old(), GONE),
        "Surge Surging: gone=0 new=1 old=1 -gone",
    ),
    "surge: one that never served and has a pod stays": (
        at(1, new(), old(), old(1, 0, name="bad", proven=False)),
        "Surge Surging: bad=0 new=1 old=1",
    ),
    "surge: of two old revisions the good one keeps its own": (
        at(3, new(), old(2, name="a", created=10.0), old(1, name="b", created=20.0)),
        "Surge Surging: a=2 b=1 new=1",
    ),
    "surge: the one that serves keeps its own": (
        at(3, new(), old(2, 2, name="a", created=10.0), old(2, 0, name="b", created=20.0)),
        "Surge Surging: a=2 b=1 new=1",
    ),
    "surge: both shrink as new ones are ready": (
        at(3, new(2, 2), old(2, name="a", created=10.0), old(1, name="b", created=20.0)),
        "Surge Surging: a=0 b=1 new=3",
    ),
    # room
    "no room is told by the devices": (
        at(1, new(), old(), room_for_one=False),
        "Wait Waiting: new=0 old=1 check (it_was_proven_without_its_room)",
    ),
    "no room, but a replica has its node already": (
        at(1, new(1, 0, placed=1), old(), room_for_one=False),
        "Surge Surging: new=1 old=1",
    ),
    "no room for a further one": (at(2, new(1, 1, placed=1), old(1), **FULL), "Replace Announced: new=1 old=1"),
    "no room is told by the scheduler": (
        at(1, new(1, 0, placed=0, crowded=True), old()),
        "Wait Waiting: new=1 old=1 check (it_was_proven_without_its_room)",
    ),
    "no room is told by admission": (
        at(1, new(1, 0, pods=0, placed=0), old(), pods_refused="pods forbidden: exceeded quota: team", checked=True),
        "Recreate Announced: new=1 old=1 check",
    ),
    "admission refuses for another reason": (
        at(1, new(1, 0, pods=0, placed=0), old(), pods_refused="violates PodSecurity", checked=True),
        "Wait Waiting: new=1 old=1 check (pods_are_allowed)",
    ),
    "there is room and nobody asks": (at(1, new(), old(), room_for_one=True), "Surge Surging: new=1 old=1"),
    # steps
    "checking": (
        at(1, new(), old(), room_for_one=False, checked=False),
        "Wait Waiting: new=0 old=1 check (it_was_proven_without_its_room)",
    ),
    "announcing": (at(1, new(), old(), **FULL), "Recreate Announced: new=0 old=1 check"),
    "announcing: of two": (at(2, new(), old(2), **FULL), "Replace Announced: new=0 old=2 check"),
    "announcing: a pod that waits is kept": (
        at(1, new(1, 0, placed=0, crowded=True), old(), checked=True),
        "Recreate Announced: new=1 old=1 check",
    ),
    "announced: the only one makes way": (
        at(1, new(), old(), memory=ANNOUNCED, **FULL),
        "Recreate Swapping: new=0 old=0 check",
    ),
    "announced: one of two makes way": (
        at(2, new(), old(2), memory=ANNOUNCED, **FULL),
        "Replace Swapping: new=0 old=1 check",
    ),
    "announced for another revision counts for nothing": (
        at(1, new(), old(), memory=memory(Phase.ANNOUNCED, "other"), **FULL),
        "Recreate Announced: new=0 old=1 check",
    ),
    "announced, and a check refuses all the same": (
        at(1, new(), old(), memory=ANNOUNCED, findings=(NO_IMAGE,), **FULL),
        "Wait Waiting: new=0 old=1 check (its_image_can_be_pulled)",
    ),
    "a proven revision needs no check": (
        at(1, new(0, 0, proven=True), old(), room_for_one=False),
        "Recreate Announced: new=0 old=1",
    ),
    "swapping: while the old one leaves nothing is made": (
        at(1, new(), old(0, 0, pods=1), memory=SWAPPING, **FULL),
        "Recreate Swapping: new=0 old=0",
    ),
    "swapping: its room is free": (at(1, new(), old(0), memory=SWAPPING, **FULL), "Recreate Swapping: new=1 old=0"),
    "swapping: of two, one leaves still": (
        at(2, new(), old(1, 1, pods=2), memory=SWAPPING, **FULL),
        "Replace Swapping: new=0 old=1 check",
    ),
    "swapping: of two, one has left": (
        at(2, new(), old(1), memory=SWAPPING, **FULL),
        "Replace Swapping: new=1 old=1 check",
    ),
    "swapping: of two, the new one starts": (
        at(2, new(1, 0), old(1), memory=SWAPPING, **FULL),
        "Replace Swapping: new=1 old=1 check",
    ),
    "swapping: of two, the new one is ready": (
        at(2, new(1, 1), old(1), memory=SWAPPING, **FULL),
        "Replace Swapping: new=1 old=0",
    ),
    "swapping: of three, the first is ready": (
        at(3, new(1, 1), old(2), memory=SWAPPING, **FULL),
        "Replace Swapping: new=1 old=1",
    ),
    "swapping: of three, another is not ready: the next waits": (
        at(3, new(1, 1), old(2, 1), memory=SWAPPING, **FULL),
        "Replace Swapping: new=1 old=1",
    ),
    "swapping: of three, one of the new is not ready: the next waits": (
        at(3, new(2, 1), old(1), memory=SWAPPING, **FULL),
        "Replace Swapping: new=2 old=1",
    ),
    "swapping: nothing has been given yet": (
        at(2, new(), old(2), memory=SWAPPING, **FULL),
        "Replace Announced: new=0 old=2 check",
    ),
    "swapping: for another revision": (
        at(2, new(), old(1), memory=memory(Phase.SWAPPING, "other"), **FULL),
        "Wait Waiting: new=1 old=1 check (the_others_serve)",
    ),
    "one that does not serve makes way": (
        at(2, new(), old(2, 1), memory=ANNOUNCED, **FULL),
        "Replace Swapping: new=0 old=1 check",
    ),
    "of old revisions the one that does not serve makes way": (
        at(3, new(), old(2, 2, name="a", created=10.0), old(1, 0, name="b", created=20.0), memory=ANNOUNCED, **FULL),
        "Replace Swapping: a=2 b=0 new=0 check",
    ),
    "of old revisions that serve the oldest makes way": (
        at(
            3,
            new(0, 0, amounts=TWO_GPUS),
            old(1, name="a", created=10.0, amounts=TWO_GPUS),
            old(2, name="b", created=20.0),
            memory=ANNOUNCED,
            **FULL,
        ),
        "Replace Swapping: a=0 b=2 new=0 check",
    ),
    "the others serve, or nobody leaves": (
        at(3, new(), old(2), memory=ANNOUNCED, **FULL),
        "Wait Waiting: new=1 old=2 check (the_others_serve)",
    ),
    # strategies
    "Surge waits for room": (
        at(1, new(), old(), strategy=Strategy.SURGE, **FULL),
        "Wait Waiting: new=1 old=1 check (the_strategy_allows_a_gap)",
    ),
    "Surge with room": (at(1, new(), old(), strategy=Strategy.SURGE, room_for_one=True), "Surge Surging: new=1 old=1"),
    "Replace never takes the only one": (
        at(1, new(), old(), strategy=Strategy.REPLACE, **FULL),
        "Wait Waiting: new=1 old=1 check (the_strategy_allows_a_gap)",
    ),
    "Replace with room for the only one": (
        at(1, new(), old(), strategy=Strategy.REPLACE, room_for_one=True),
        "Surge Surging: new=1 old=1",
    ),
    "Replace of two": (
        at(2, new(), old(2), strategy=Strategy.REPLACE, checked=True),
        "Replace Announced: new=0 old=2 check",
    ),
    "Recreate although there is room": (
        at(1, new(), old(), strategy=Strategy.RECREATE, checked=True),
        "Recreate Announced: new=0 old=1 check",
    ),
    "Recreate of two takes one at a time": (
        at(2, new(), old(2), strategy=Strategy.RECREATE, memory=ANNOUNCED, checked=True),
        "Replace Swapping: new=0 old=1 check",
    ),
    "Recreate with more than leaves, and room elsewhere": (
        at(1, new(amounts=TWO_GPUS), old(), strategy=Strategy.RECREATE, checked=True),
        "Surge Surging: new=1 old=1",
    ),
    "Auto with more than leaves, and no room": (
        at(1, new(amounts=TWO_GPUS), old(), **FULL),
        "Wait Waiting: new=0 old=1 check (it_fits_into_the_room_that_leaves)",
    ),
    "Recreate with more than the quota": (
        at(1, new(amounts=TWO_GPUS), old(amounts=ONE_GPU), strategy=Strategy.RECREATE, checked=True, quotas=(QUOTA,)),
        "Surge Surging: new=1 old=1",
    ),
    "a new node is waited for": (
        at(1, new(), old(), surge_wait_s=100.5, memory=memory(Phase.WAITING), **FULL),
        "Wait Waiting: new=1 old=1 check (a_new_node_was_waited_for)",
    ),
    "a new node was waited for": (
        at(1, new(), old(), surge_wait_s=100.0, memory=memory(Phase.WAITING), **FULL),
        "Recreate Announced: new=0 old=1 check",
    ),
    "a wait for another revision counts for nothing": (
        at(1, new(), old(), surge_wait_s=100.0, memory=memory(Phase.WAITING, "other"), **FULL),
        "Wait Waiting: new=1 old=1 check (a_new_node_was_waited_for)",
    ),
    # paused
    "paused: nothing changes hands": (at(2, new(1, 1), old(1), paused=True), "Paused Paused: new=1 old=1"),
    "paused: what is missing is made up by the last good one": (
        at(3, new(1, 1), old(1), paused=True),
        "Paused Paused: new=1 old=2",
    ),
    "paused: of two old ones, too": (
        at(4, new(1, 1), old(1, name="a", created=10.0), old(1, name="b", created=20.0), paused=True),
        "Paused Paused: a=1 b=2 new=1",
    ),
    "paused: fewer are wanted": (at(1, new(2, 2), old(2), paused=True), "Paused Paused: new=1 old=0"),
    "paused before it began": (at(2, new(), old(2), paused=True), "Paused Paused: new=0 old=2"),
    "paused: the target serves alone": (at(2, new(2, 2), old(0), paused=True), "None None: new=2 old=0 -old"),
    "paused: the target was proven and lost its pods": (
        at(1, new(0, 0, proven=True), old(0), paused=True),
        "None None: new=1 old=0",
    ),
    "paused: nothing was ever proven": (at(1, new(), paused=True), "None None: new=1"),
    # failed
    "failed: the old one keeps serving": (at(1, new(1, 0), old(), failed=CRASH), "Rollback Returning: new=0 old=1"),
    "failed: it comes back when its successor's pod has gone": (
        at(1, new(1, 0), old(0), failed=CRASH),
        "Rollback Returning: new=0 old=0",
    ),
    "failed: its room is free": (at(1, new(0, 0), old(0), failed=CRASH), "Rollback Returning: new=0 old=1"),
    "failed: of two": (at(2, new(1, 0), old(1), failed=CRASH), "Rollback Returning: new=0 old=1"),
    "failed: of two, its pod has gone": (at(2, new(0, 0), old(1), failed=CRASH), "Rollback Returning: new=0 old=2"),
    "failed: others still leave": (
        at(2, new(0, 0), old(0), old(0, 0, name="b", pods=1, created=10.0), failed=CRASH),
        "Rollback Returning: b=0 new=0 old=1",
    ),
    "failed: what of it serves goes on": (at(3, new(1, 1), old(2), failed=CRASH), "Rollback Returning: new=1 old=2"),
    "failed: more than is wanted is not made": (
        at(1, new(0, 0), old(3), failed=CRASH),
        "Rollback Returning: new=0 old=1",
    ),
    "failed: there is no other": (at(1, new(1, 0), failed=CRASH), "None None: new=0"),
    "failed: ready, but the only one": (at(1, new(1, 1), failed=CRASH), "None None: new=1"),
    "failed: one that a check can find out is probed": (
        at(1, new(0, 0), old(), failed=NO_IMAGE),
        "Rollback Returning: new=0 old=1 check",
    ),
    "failed: for good": (
        at(1, new(0, 0), old(), failed=replace(NO_IMAGE, permanent=True)),
        "Rollback Returning: new=0 old=1",
    ),
    "failed: those that never served go": (
        at(1, new(0, 0), old(), GONE, old(0, 0, name="left", pods=1, proven=False), failed=CRASH),
        "Rollback Returning: gone=0 left=0 new=0 old=1 -gone",
    ),
    "failed: an earlier one that was proven is kept": (
        at(1, new(0, 0), old(), old(0, name="a", created=10.0), failed=CRASH),
        "Rollback Returning: a=0 new=0 old=1",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_what_is_decided(row: str) -> None:
    now, expected = ROWS[row]
    assert told(now) == expected


def test_the_last_good_revision_is_one_that_serves_else_the_latest() -> None:
    earlier, later = old(1, name="a", created=10.0), old(1, 0, name="b", created=20.0)
    assert last_good((earlier, later)) is earlier
    assert last_good((replace(earlier, ready=0), later)) is later
    assert last_good((old(1, 0, proven=False), GONE)) is None
    assert last_good((old(1, 1, proven=False),)) is not None


def test_what_the_next_pass_must_know() -> None:
    first = plan_rollout(at(1, new(), old(), expected_gap_s=40.0, **FULL)).memory
    assert first == RolloutMemory("new", Phase.ANNOUNCED, NOW, None, 40.0)
    gap = plan_rollout(at(1, new(), old(0), memory=replace(SWAPPING, expected_gap_s=40.0), expected_gap_s=9.0, **FULL))
    assert gap.memory == RolloutMemory("new", Phase.SWAPPING, 900.0, NOW, 40.0), "what was announced stays"
    still = plan_rollout(at(1, new(), old(0), memory=replace(SWAPPING, gap_since=950.0), **FULL)).memory
    assert still is not None and still.gap_since == 950.0
    over = plan_rollout(at(2, new(1, 1), old(1), memory=replace(SWAPPING, gap_since=950.0), **FULL)).memory
    assert over is not None and over.gap_since is None
    other = plan_rollout(at(1, new(), old(), memory=memory(Phase.WAITING, "other"), **FULL)).memory
    assert other is not None and other.started == NOW
    several = plan_rollout(at(2, new(), old(2), expected_gap_s=40.0, **FULL))
    assert several.expected_gap_s == 0.0, "one less serves meanwhile"


def test_the_steps_are_told_of_what_takes_something_away() -> None:
    one = plan_rollout(at(1, new(), old(), **FULL))
    assert [step.partition(" ")[0] for step in one.steps] == ["check", "announce", "start"]
    assert one.steps[1] == "announce and drain the replica; requests are held meanwhile"
    two = plan_rollout(at(2, new(0, 0, proven=True), old(2), room_for_one=False))
    assert two.steps[0] == "announce and drain one of 2 replicas at a time" and len(two.steps) == 2
    assert plan_rollout(at(1, new(), old())).steps == ()
    assert "with a gap of one start" in one.reason and "replacing one of 2 at a time" in two.reason
    assert one.reason.startswith("there is no room")
    asked = plan_rollout(at(2, new(), old(2), strategy=Strategy.REPLACE, checked=True))
    assert asked.reason.startswith("spec.rollout.strategy is Replace")
    asked = plan_rollout(at(1, new(), old(), strategy=Strategy.RECREATE, checked=True))
    assert asked.reason.startswith("spec.rollout.strategy is Recreate")


def test_a_return_says_whether_the_old_revision_serves_still() -> None:
    assert plan_rollout(at(2, new(), old(2), failed=CRASH)).reason.endswith("keeps serving")
    assert plan_rollout(at(2, new(), old(2, 1), failed=CRASH)).reason.endswith("takes over again")
    assert plan_rollout(at(3, new(1, 1), old(2), failed=CRASH)).reason.endswith("keeps serving")
