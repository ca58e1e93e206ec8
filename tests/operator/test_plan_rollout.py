"""Rollouts by scenario: what is planned first, what stands in status, and what a failing successor costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from operatorlab.facts import NOW, Made, checks, condition, model, pod, replicas, revision
from operatorlab.facts import plan as make
from operatorlab.town import BY_NAME, GPU, NEW, OLD, Setting, Town

from topmast_operator.api.facts import ClaimFacts, EngineState, Facts, PodFacts, Room, Termination, WriteRefused
from topmast_operator.plan.revision import revision_of
from topmast_operator.plan.rollout_state import How, Phase

FULL = Room(free=0, total=2, nodes=1, largest_free_on_a_node=0)


def setting(cause: str = "none", **more: Any) -> Setting:
    """A sequence without luck: one replica, no spare room, and the cause lasts."""
    plain: dict[str, Any] = {
        "seed": 7,
        "cause": BY_NAME[cause],
        "wanted": 1,
        "spare": 0,
        "room_known": True,
        "strategy": "Auto",
        "surge_wait_s": 0,
        "heals_after": None,
        "outsider": None,
        "node_after_s": None,
        "outage": None,
        "old_broken_until": 0,
    }
    return Setting(**{**plain, **more})


def rounds(town: Town, count: int) -> list[tuple[How, Phase]]:
    """So many passes, with repetitions left out."""
    seen: list[tuple[How, Phase]] = []
    for _ in range(count):
        rolled = town.step().rollout
        if not seen or seen[-1] != (rolled.how, rolled.phase):
            seen.append((rolled.how, rolled.phase))
    return seen


def swap(new: Any = None, *, wanted: int = 2, status: dict[str, Any] | None = None, **more: Any) -> Facts:
    """Two revisions on GPUs that are all taken: the old one serves, the new one is asked for."""
    old = model(resources=GPU, replicas=wanted, **OLD)
    new = new or model(resources=GPU, replicas=wanted, **NEW)
    pods = tuple(pod(old, number) for number in range(wanted))
    facts = Facts(replace(new, status=status or {}), NOW, (revision(old, wanted),), pods, room=FULL)
    return replace(facts, **more)


def check_pod(facts: Facts, **more: Any) -> PodFacts:
    return pod(facts.model, ready=False, phase="Succeeded", **more)


def announced(facts: Facts) -> Facts:
    return replace(facts, model=replace(facts.model, status={"rollout": make(facts).status["rollout"]}))


def test_with_room_a_new_replica_comes_first() -> None:
    town = Town(setting(spare=1, wanted=3))
    seen = rounds(town, 40)
    assert seen[0] == (How.SURGE, Phase.SURGING) and seen[-1] == (How.NONE, Phase.NONE)
    assert town.ready(town.new_name) == 3


def test_without_room_the_only_replica_leaves_after_a_check_and_an_announcement() -> None:
    town = Town(setting())
    seen = rounds(town, 40)
    assert seen == [
        (How.WAIT, Phase.WAITING),
        (How.RECREATE, Phase.ANNOUNCED),
        (How.RECREATE, Phase.SWAPPING),
        (How.NONE, Phase.NONE),
    ]


def test_of_several_replicas_one_at_a_time_makes_way() -> None:
    town = Town(setting(wanted=3))
    least = min(town.ready() for _ in range(60) if town.step())
    assert least == 2 and town.ready(town.new_name) == 3


def test_nothing_is_taken_before_the_check_has_passed() -> None:
    facts = swap(wanted=1)
    made = make(facts)
    assert checks(made) == [f"m-{revision_of(facts.model)}-check"]
    assert not made.changes.takes_away and replicas(made) == {f"m-{revision_of(facts.model)}": 0}
    assert made.status["rollout"]["refusedBy"] == "it_was_proven_without_its_room"
    assert condition(made, "Available")["status"] == "True"


def test_the_plan_and_its_gap_stand_in_status_before_the_first_replica_leaves() -> None:
    facts = swap(wanted=1, status={"start": {"p90Seconds": 20, "latestSeconds": [20]}})
    facts = replace(facts, check=check_pod(facts))
    made = make(facts)
    told = made.status["rollout"]
    assert not made.changes.takes_away and made.plan.again_s == 0
    assert (told["phase"], told["strategy"], told["expectedGapSeconds"]) == ("Announced", "Recreate", 24)
    assert len(told["steps"]) == 3 and "requests are held" in told["steps"][1]
    assert replicas(make(announced(facts)))[f"m-{facts.revisions[0].revision}"] == 0


def test_the_expected_gap_counts_the_drain_of_a_busy_replica() -> None:
    facts = swap(wanted=1, status={"start": {"p90Seconds": 20, "latestSeconds": [20]}})
    busy = replace(facts.pods[0], engine=EngineState("ready", running=1))
    made = make(replace(facts, pods=(busy,), check=check_pod(facts)))
    assert made.status["rollout"]["expectedGapSeconds"] == 54


def test_the_successor_is_made_only_when_its_room_is_free() -> None:
    """Deletes before creates: a pending pod would make a node autoscaler buy a node."""
    facts = swap(wanted=1)
    facts = announced(replace(facts, check=check_pod(facts)))
    made = make(facts)
    new = f"m-{revision_of(facts.model)}"
    assert replicas(made).get(new, 0) == 0
    left = replace(
        facts,
        model=replace(facts.model, status=dict(made.status)),
        revisions=(replace(facts.revisions[0], replicas=0), revision(facts.model, 0, proven=False)),
        pods=(replace(facts.pods[0], deleting=True, ready=False, leaves_by_unix_s=NOW + 40),),
    )
    assert replicas(make(left)).get(new, 0) == 0
    assert replicas(make(replace(left, pods=())))[new] == 1


def test_the_replica_on_the_node_of_the_check_makes_way() -> None:
    facts = swap(wanted=2)
    facts = replace(facts, pods=(facts.pods[0], replace(facts.pods[1], node="n2")))
    facts = announced(replace(facts, check=check_pod(facts, node="n2")))
    assert make(facts).changes.drain == (facts.pods[1].name,)


def test_a_replica_that_does_not_serve_makes_way_first_and_costs_nothing() -> None:
    facts = swap(wanted=2)
    sick = replace(facts.pods[0], ready=False, restarts=9, last_terminated=Termination(137, "OOMKilled", ""))
    facts = announced(replace(facts, pods=(sick, facts.pods[1]), check=check_pod(facts)))
    made = make(facts)
    assert made.changes.drain == (sick.name,) and replicas(made)[f"m-{facts.revisions[0].revision}"] == 1


@pytest.mark.parametrize("cause", [name for name in BY_NAME if name not in ("none", "quota")])
@pytest.mark.parametrize("room_known", [True, False])
def test_the_only_replica_serves_again_whatever_keeps_its_successor_from_starting(cause: str, room_known: bool) -> None:
    town = Town(setting(cause, room_known=room_known))
    for _ in range(80):
        town.step()
    assert town.ready(town.old_name) == 1


@pytest.mark.parametrize("cause", ["image", "claim missing", "secret missing", "cordon", "ModelCorrupt"])
def test_what_a_check_can_find_out_costs_nothing_at_all(cause: str) -> None:
    town = Town(setting(cause))
    assert min(town.ready() for _ in range(60) if town.step()) == 1


@pytest.mark.parametrize("cause", ["image", "secret missing", "claim missing", "cordon"])
def test_what_was_mended_outside_goes_on_by_itself(cause: str) -> None:
    """Nobody has to touch the model: the registry, the Secret, the claim or the node came back."""
    for spare in (0, 1):
        town = Town(setting(cause, heals_after=30, spare=spare))
        for _ in range(90):
            town.step()
        assert town.ready(town.new_name) == 1, spare


def test_a_crash_loop_beside_the_old_replica_gives_its_room_back() -> None:
    town = Town(setting("out of memory", spare=1))
    seen = rounds(town, 60)
    assert seen == [(How.SURGE, Phase.SURGING), (How.ROLLBACK, Phase.RETURNING)]
    assert (town.ready(town.old_name), len(town.facts.pods_of(town.new_name))) == (1, 0)


def test_while_nobody_answers_two_failures_are_enough() -> None:
    for spare, times in ((0, 2), (1, 3)):
        town = Town(setting("crash", spare=spare))
        while town.last is None or town.last.failed is None:
            town.step()
        assert town.last.failed.finding.times == times


def test_while_the_last_good_revision_comes_back_nobody_is_told_to_give_up() -> None:
    """A gateway refuses callers of a stalled model without replicas: they are to be held."""
    new = model(resources=GPU, **NEW)
    crash = Termination(1, "Error", "Segmentation fault")
    facts = swap(new, wanted=1)
    record = {"kind": "crash", "reason": "EngineCrash", "message": "It crashed. See its log.", "retry": ""}
    failed = revision(new, 0, proven=False, failed=record)
    coming = replace(facts.pods[0], ready=False, restarts=0)
    gone = pod(new, 7, ready=False, deleting=True, restarts=2, terminated=crash, last_terminated=crash)
    back = make(replace(facts, revisions=(*facts.revisions, failed), pods=(coming, gone)))
    assert back.status["rollout"]["phase"] == "Returning"
    assert condition(back, "Stalled")["status"] == "False" and condition(back, "Reconciling")["reason"] == "Rollback"
    assert "It crashed" in ready(back) and condition(back, "Available")["reason"] == "Rollback"
    there = make(replace(facts, revisions=(*facts.revisions, failed)))
    assert condition(there, "Stalled")["status"] == "True" and condition(there, "Available")["status"] == "True"


def test_another_try_is_a_new_value_of_the_annotation() -> None:
    town = Town(setting("crash", spare=1, heals_after=40))
    rounds(town, 60)
    assert town.ready(town.new_name) == 0
    town.facts = replace(town.facts, model=replace(town.facts.model, retry="1"))
    rounds(town, 30)
    assert town.ready(town.new_name) == 1


def test_room_that_others_took_is_named_and_the_old_revision_gets_it_back() -> None:
    town = Town(setting(outsider=(4, 60)))
    seen = rounds(town, 50)
    assert (How.ROLLBACK, Phase.RETURNING) in seen and town.ready() == 0
    assert town.last is not None and town.last.failed is not None
    told = town.last.failed.finding
    assert told.reason == "RoomTaken" and "elsewhere/other" in told.message and not told.final
    nobody = condition(make(town.facts), "Available")
    assert nobody["reason"] == "RoomTaken" and "elsewhere/other" in nobody["message"], "and not for about 40 s"
    assert max(town.ready(town.old_name) for _ in range(25) if town.step()) == 1
    rounds(town, 90)
    assert town.ready(town.new_name) == 1, "tried again later"


def test_a_node_that_an_autoscaler_brings_is_waited_for() -> None:
    town = Town(setting(surge_wait_s=300, node_after_s=180.0))
    assert min(town.ready() for _ in range(80) if town.step()) == 1
    assert town.ready(town.new_name) == 1
    impatient = Town(setting(node_after_s=180.0))
    assert min(impatient.ready() for _ in range(80) if impatient.step()) == 0


def test_surge_waits_for_room_for_ever_and_replace_never_takes_the_only_replica() -> None:
    for strategy in ("Surge", "Replace"):
        town = Town(setting(strategy=strategy))
        assert set(rounds(town, 60)) == {(How.WAIT, Phase.WAITING)}
        assert town.ready(town.old_name) == 1


def test_recreate_makes_way_first_although_there_is_room() -> None:
    town = Town(setting(strategy="Recreate", spare=3))
    assert min(town.ready() for _ in range(60) if town.step()) == 0
    assert town.ready(town.new_name) == 1


def test_a_paused_rollout_changes_no_hands_and_goes_on_when_unpaused() -> None:
    town = Town(setting(spare=1))
    unpaused = town.facts.model
    town.facts = replace(town.facts, model=replace(unpaused, rollout=replace(unpaused.rollout, paused=True)))
    assert rounds(town, 20) == [(How.PAUSED, Phase.PAUSED)]
    assert (town.ready(town.old_name), town.ready(town.new_name)) == (1, 0)
    town.facts = replace(town.facts, model=replace(unpaused, status=town.facts.model.status))
    rounds(town, 30)
    assert town.ready(town.new_name) == 1


def test_a_first_revision_starts_although_paused() -> None:
    made = make(Facts(model(rollout={"paused": True}), NOW))
    assert list(replicas(made).values()) == [1]


def test_earlier_revisions_are_kept_as_the_history_says() -> None:
    new = model(rollout={"revisionHistoryLimit": 1}, **NEW)
    old = [model(model={"source": f"image:///models/{number}.gguf"}) for number in range(3)]
    empty = [revision(of, 0, age_s=500 - number) for number, of in enumerate(old)]
    made = make(Facts(new, NOW, (*empty, revision(new, 1)), (pod(new),)))
    assert {name for _, name, _ in made.changes.delete} == {empty[0].name, empty[1].name}


def test_a_return_to_a_proven_revision_needs_no_check() -> None:
    new = model(resources=GPU, **NEW)
    facts = replace(swap(new, wanted=1), revisions=(*swap(wanted=1).revisions, revision(new, 0, age_s=9000)))
    made = make(facts)
    assert checks(made) == [] and made.status["rollout"]["phase"] == "Announced"


def test_a_restart_is_a_new_revision_of_the_same_template() -> None:
    before, after = model(), model(restartAt="2026-11-30T08:00:00Z")
    assert revision_of(before) != revision_of(after) != revision_of(model(restartAt="again"))
    one, other = (dict(revision(of, 1).template["spec"]) for of in (before, after))
    assert one == other


def test_a_volume_that_one_node_has_makes_the_old_replica_leave_first() -> None:
    """ReadWriteOnce: a surge on another node can never mount it, a check beside the old replica can."""
    facts = replace(swap(wanted=1), room=None, claim=ClaimFacts("w", "Bound", ("ReadWriteOnce",)))
    new = pod(facts.model, ready=False, started_unix_s=None, stuck_message="Multi-Attach error for volume pvc-1")
    facts = replace(facts, revisions=(*facts.revisions, revision(facts.model, 1, proven=False)))
    facts = announced(replace(facts, pods=(*facts.pods, new), check=check_pod(facts)))
    assert make(facts).status["rollout"]["strategy"] == "Recreate"
    shared = replace(facts, claim=ClaimFacts("w", "Bound", ("ReadOnlyMany",)))
    assert make(shared).status["rollout"]["strategy"] != "Recreate"


def test_a_refused_check_pod_is_told_and_nothing_is_taken() -> None:
    facts = replace(swap(wanted=1), refused=WriteRefused(403, 'pods "m" is forbidden: violates PodSecurity'))
    made = make(facts)
    assert condition(made, "Stalled")["status"] == "True" and "violates PodSecurity" in ready(made)
    assert made.status["rollout"]["refusedBy"] == "pods_are_allowed"


def test_a_server_that_cannot_write_is_no_reason_to_give_up() -> None:
    facts = replace(swap(wanted=1), refused=WriteRefused(503, "etcdserver: request timed out"))
    assert condition(make(facts), "Stalled")["status"] == "False"
    assert "It is tried again" in ready(make(facts))


def test_a_successor_that_needs_more_takes_nothing_away_in_vain() -> None:
    new = model(resources={"accelerator": {"count": 4}}, **NEW)
    facts = swap(new, wanted=1)
    facts = announced(replace(facts, check=check_pod(facts)))
    made = make(facts)
    assert not made.changes.takes_away and made.status["rollout"]["strategy"] == "Wait"
    assert "more nvidia.com/gpu (4, not 1)" in made.status["rollout"]["reason"]


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


def test_the_gap_is_measured_and_told() -> None:
    facts = swap(wanted=1, status={"start": {"p90Seconds": 20, "latestSeconds": [20]}})
    facts = announced(replace(facts, check=check_pod(facts)))
    new = facts.model
    empty = (replace(facts.revisions[0], replicas=0), revision(new, 1, proven=False))
    gap = make(replace(facts, revisions=empty, pods=(pod(new, ready=False),), check=None))
    assert len(gap.status["rollout"]["steps"]) == 3, "the plan stays readable while it is carried out"
    assert "gapSince" in gap.status["rollout"] and condition(gap, "Available")["status"] == "False"
    after = replace(facts, model=replace(new, status=dict(gap.status)), revisions=empty, pods=(pod(new),), now=NOW + 31)
    made = make(after)
    assert made.status["lastRollout"]["measuredGapSeconds"] == 31
    assert made.status["lastRollout"]["expectedGapSeconds"] == 24
    assert "GapMeasured" in {event.reason for event in made.plan.events}


def ready(made: Made) -> str:
    return str(condition(made, "Ready")["message"])
