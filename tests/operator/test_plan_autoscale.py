"""The autoscaler's promises, for any load: it is a pure function, so hypothesis may try everything."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operatorlab.facts import NOW

from topmast_operator.api.resource import Autoscaling
from topmast_operator.plan.autoscale import ScaleMemory, decide, remember
from topmast_operator.plan.load import Load

POLICY = Autoscaling(min_replicas=1, max_replicas=8, hold_s=300, target_utilization=0.65)

policies = st.builds(
    lambda least, more, hold, share: Autoscaling(least, least + more, hold, share),
    st.integers(1, 5),
    st.integers(0, 10),
    st.floats(1, 1000),
    st.floats(0.1, 1.0),
)
loads = st.builds(
    Load,
    work=st.floats(0, 50),
    growth=st.floats(0, 50),
    drained=st.floats(0, 50),
    kv=st.floats(0, 50),
    backlog_s=st.floats(0, 1000),
    ready=st.integers(0, 16),
    starting=st.integers(0, 4),
    stuck=st.integers(0, 4),
    unknown=st.integers(0, 4),
    waiting=st.integers(0, 1000),
    blind=st.sampled_from(["", "1 of 2 gateways tells no queue"]),
)
memories = st.builds(
    ScaleMemory, st.integers(0, 20), st.none() | st.floats(NOW - 1000, NOW), st.none() | st.floats(NOW - 1000, NOW)
)


@given(policies, memories, loads)
def test_the_answer_stays_within_the_bounds_and_explains_itself(
    policy: Autoscaling, memory: ScaleMemory, load: Load
) -> None:
    decision = decide(policy, memory, load, NOW)
    assert policy.min_replicas <= decision.desired <= policy.max_replicas
    assert str(decision.desired) in decision.reason


@given(policies, memories, loads, st.floats(0, 50), st.floats(0, 1000), st.floats(0, 50))
def test_more_demand_never_means_fewer_replicas(
    policy: Autoscaling, memory: ScaleMemory, load: Load, more: float, waiting: float, growth: float
) -> None:
    busier = replace(load, work=load.work + more, backlog_s=load.backlog_s + waiting, growth=load.growth + growth)
    assert decide(policy, memory, busier, NOW).desired >= decide(policy, memory, load, NOW).desired


@given(policies, st.integers(1, 15), loads)
def test_it_never_shrinks_on_missing_numbers(policy: Autoscaling, desired: int, load: Load) -> None:
    desired = max(policy.min_replicas, min(policy.max_replicas, desired))
    memory = ScaleMemory(desired, low_since=NOW - 10_000)
    for missing in (
        replace(load, unknown=max(1, load.unknown)),
        replace(load, blind="1 of 2 gateways tells no queue"),
    ):
        assert decide(policy, memory, missing, NOW).desired >= desired


@given(policies, memories, loads, st.floats(0, 50))
def test_that_a_queue_was_drained_asks_for_no_more_and_takes_none_away(
    policy: Autoscaling, memory: ScaleMemory, load: Load, drained: float
) -> None:
    as_told = decide(policy, memory, replace(load, drained=0.0), NOW).desired
    found = decide(policy, memory, replace(load, drained=drained), NOW).desired
    assert found <= as_told
    if found < memory.desired:
        assert found == as_told


@given(policies, st.integers(1, 15), loads)
def test_it_never_shrinks_while_something_starts(policy: Autoscaling, desired: int, load: Load) -> None:
    desired = max(policy.min_replicas, min(policy.max_replicas, desired))
    memory = ScaleMemory(desired, low_since=NOW - 10_000)
    assert decide(policy, memory, replace(load, starting=1), NOW).desired >= desired


@given(policies, memories, loads)
def test_it_shrinks_by_one_at_most(policy: Autoscaling, memory: ScaleMemory, load: Load) -> None:
    inside = max(policy.min_replicas, min(policy.max_replicas, memory.desired))
    assert decide(policy, memory, load, NOW).desired >= inside - 1


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 60)), min_size=1, max_size=60))
def test_replicas_never_fall_within_the_hold(steps: list[tuple[float, int]]) -> None:
    """A whole history: between a moment that needed the replicas and their removal lies the hold."""
    memory, now, needed_at = ScaleMemory(1), NOW, NOW
    for work, wait in steps:
        now += wait
        load = Load(work=work, ready=memory.desired)
        decision = decide(POLICY, memory, load, now)
        if decision.desired < memory.desired:
            assert now - needed_at >= POLICY.hold_s
        if decision.desired >= memory.desired and work / 0.65 > memory.desired - 1 + 1e-6:
            needed_at = now
        if decision.desired != memory.desired:
            needed_at = now
        memory = decision.memory


@given(memories, loads)
def test_a_restart_changes_no_decision(memory: ScaleMemory, load: Load) -> None:
    """What status keeps (whole seconds) is all that the next decision needs."""
    memory = ScaleMemory(memory.desired, memory.low_since and float(int(memory.low_since)), None)
    status = {"autoscaling": {"desiredReplicas": memory.desired}}
    if memory.low_since:
        from topmast_operator.api.times import to_text

        status["autoscaling"]["lowSince"] = to_text(memory.low_since)  # type: ignore[assignment]
    remembered = remember(status, POLICY, running=3)
    assert decide(POLICY, remembered, load, NOW) == decide(POLICY, memory, load, NOW)


def test_the_whole_deficit_comes_at_once() -> None:
    decision = decide(POLICY, ScaleMemory(1), Load(work=3.0, ready=1), NOW)
    assert decision.desired == 5  # 3.0 / 0.65
    assert decision.reason == "up from 1 to 5: work of 3.0 replicas"


def test_starting_replicas_count_as_supply() -> None:
    load = Load(work=1.5, ready=1, starting=2)
    assert decide(POLICY, ScaleMemory(3), load, NOW).desired == 3


def test_one_leaves_after_the_hold_and_the_next_only_after_another() -> None:
    memory, now, changes = ScaleMemory(3), NOW, []
    for _ in range(100):
        decision = decide(POLICY, memory, Load(ready=memory.desired), now)
        if decision.desired != memory.desired:
            changes.append(now - NOW)
        memory, now = decision.memory, now + 10
    assert changes == [300, 610]


def test_what_grows_at_the_gateways_is_missing_and_the_reason_says_so() -> None:
    load = Load(work=1.0, growth=5.5, backlog_s=12.0, waiting=24, ready=1)
    decision = decide(POLICY, ScaleMemory(1), load, NOW)
    assert decision.reason == (
        "up from 1 to 8: work of 1.0 replicas, 24 requests wait at the gateways, what comes would keep 5.5 more busy, "
        "12 s of waiting work; 10 would be needed but maxReplicas is 8"
    )


def test_a_queue_that_stands_still_is_worked_off_in_a_minute() -> None:
    load = Load(work=1.0, backlog_s=90.0, waiting=180, ready=1)
    assert decide(POLICY, ScaleMemory(1), load, NOW).desired == 3  # 1.0 + 90 / 60


def test_a_queue_that_cannot_be_weighed_holds_what_there_is() -> None:
    load = Load(waiting=500, blind="no replica that is ready tells how much of the queue it could take", stuck=3)
    decision = decide(POLICY, ScaleMemory(3, low_since=NOW - 10_000), load, NOW)
    assert decision.desired == 3
    assert decision.reason.startswith("3 replicas: held, because no replica that is ready tells")
    assert decision.reason.endswith("500 requests wait at the gateways")


def test_a_capped_demand_says_so() -> None:
    decision = decide(POLICY, ScaleMemory(8), Load(work=20, ready=8), NOW)
    assert decision.desired == 8
    assert "31 would be needed but maxReplicas is 8" in decision.reason


def test_replicas_that_find_no_node_do_not_keep_the_fleet_large() -> None:
    memory = ScaleMemory(4, low_since=NOW - 301)
    assert decide(POLICY, memory, Load(ready=2, stuck=2), NOW).desired == 3


def test_switching_on_removes_nothing_at_once() -> None:
    assert remember({}, POLICY, running=5).desired == 5
    assert remember({}, POLICY, running=50).desired == 8


EVEN = replace(POLICY, target_utilization=1.0)


@pytest.mark.parametrize(
    ("load", "words", "not_told"),
    [
        (Load(work=0.04, ready=1), "1 replicas: no work", ""),
        (Load(work=0.05, ready=1), "1 replicas: work of 0.1 replicas", "no work"),
        (Load(work=1.0, drained=0.1, ready=1), "0.1 of it from a queue that is worked off", ""),
        (Load(work=1.0, drained=0.09, ready=1), "work of 1.0 replicas", "worked off"),
        (Load(work=1.0, drained=3.0, ready=1), "1.0 of it from a queue", ""),
        (Load(kv=0.1, ready=1), "KV of 0.1", ""),
        (Load(kv=0.09, ready=1), "work of 0.0 replicas", "KV"),
        (Load(waiting=0, ready=1), "no work", "wait"),
        (Load(waiting=1, ready=1), "1 request waits at the gateways", ""),
        (Load(waiting=2, ready=1), "2 requests wait at the gateways", ""),
        (Load(growth=0.1, ready=1), "what comes would keep 0.1 more busy", ""),
        (Load(growth=0.09, ready=1), "work of 0.0 replicas", "more busy"),
        (Load(backlog_s=1.0, ready=1), "1 s of waiting work", ""),
        (Load(backlog_s=0.9, ready=1), "no work", "waiting work"),
    ],
)
def test_the_reason_names_what_there_is(load: Load, words: str, not_told: str) -> None:
    reason = decide(EVEN, ScaleMemory(1), load, NOW).reason
    assert words in reason and (not not_told or not_told not in reason)


@pytest.mark.parametrize(
    ("load", "wanted"),
    [
        (Load(kv=0.85), 1),
        (Load(kv=0.86), 2),
        (Load(backlog_s=60.0), 1),
        (Load(backlog_s=61.0), 2),
        (Load(work=1.0), 1),
        (Load(work=1.01), 2),
        (Load(work=2.0, drained=1.0), 1),
        (Load(work=1.0, drained=2.0, growth=1.0), 1),
        (Load(work=1.0, growth=1.0), 2),
        (Load(work=1.0, backlog_s=60.0), 2),
        (Load(work=9.0), 8),
    ],
)
def test_the_largest_of_the_three_is_what_is_needed(load: Load, wanted: int) -> None:
    assert decide(EVEN, ScaleMemory(1), replace(load, ready=1), NOW).desired == wanted


def test_a_demand_is_capped_only_beyond_the_most() -> None:
    assert "maxReplicas" not in decide(EVEN, ScaleMemory(8), Load(work=8.0, ready=8), NOW).reason
    assert "9 would be needed but maxReplicas is 8" in decide(EVEN, ScaleMemory(8), Load(work=8.1, ready=8), NOW).reason


@pytest.mark.parametrize(
    ("low_s", "left"), [(0, "300 s"), (1, "300 s"), (285, "20 s"), (289, "20 s"), (290, "seconds"), (299, "seconds")]
)
def test_the_rest_of_a_hold_is_told_in_tens(low_s: int, left: str) -> None:
    memory = ScaleMemory(3, low_since=NOW - low_s)
    held = decide(POLICY, memory, Load(ready=3), NOW)
    assert held.desired == 3 and f"one less in {left} if it stays so" in held.reason
    assert held.memory.low_since == NOW - low_s


def test_a_hold_begins_when_less_would_do_and_ends_when_it_is_over() -> None:
    begun = decide(POLICY, ScaleMemory(3), Load(ready=3), NOW)
    assert begun.memory.low_since == NOW
    over = decide(POLICY, ScaleMemory(3, low_since=NOW - 300), Load(ready=3), NOW)
    assert over.memory == ScaleMemory(2, None, NOW) and over.reason.startswith("down from 3 to 2: for 300 s 1 would")
    again = decide(POLICY, ScaleMemory(3, low_since=NOW - 300), Load(work=1.5, ready=3), NOW)
    assert again.desired == 3 and again.memory.low_since is None


def test_replicas_outside_of_the_bounds_are_brought_inside() -> None:
    for has, gets in ((0, 1), (9, 8)):
        found = decide(POLICY, ScaleMemory(has), Load(ready=has), NOW)
        assert found.memory == ScaleMemory(gets, None, NOW) and "allows 1 to 8" in found.reason


@pytest.mark.parametrize("stuck", [0, 1])
def test_what_is_stuck_is_not_waited_for(stuck: int) -> None:
    found = decide(POLICY, ScaleMemory(3, low_since=NOW - 400), Load(ready=2, stuck=stuck), NOW)
    assert found.desired == 3 - stuck
    held = decide(POLICY, ScaleMemory(3, low_since=NOW - 400), Load(ready=2, stuck=1, starting=1), NOW)
    assert held.desired == 3 and "(2 are ready)" in held.reason
