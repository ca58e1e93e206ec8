"""The autoscaler's promises, for any load: it is a pure function, so hypothesis may try everything."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from operatorlab.facts import NOW, engine, model, pod

from topmast_operator.api.resource import Autoscaling
from topmast_operator.plan.autoscale import Load, Memory, decide, measure, remember

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
    kv=st.floats(0, 50),
    backlog_s=st.floats(0, 1000),
    ready=st.integers(0, 16),
    starting=st.integers(0, 4),
    stuck=st.integers(0, 4),
    unknown=st.integers(0, 4),
)
memories = st.builds(
    Memory, st.integers(0, 20), st.none() | st.floats(NOW - 1000, NOW), st.none() | st.floats(NOW - 1000, NOW)
)


@given(policies, memories, loads)
def test_the_answer_stays_within_the_bounds_and_explains_itself(
    policy: Autoscaling, memory: Memory, load: Load
) -> None:
    decision = decide(policy, memory, load, NOW)
    assert policy.min_replicas <= decision.desired <= policy.max_replicas
    assert str(decision.desired) in decision.reason


@given(policies, memories, loads, st.floats(0, 50), st.floats(0, 1000))
def test_more_demand_never_means_fewer_replicas(
    policy: Autoscaling, memory: Memory, load: Load, more: float, waiting: float
) -> None:
    busier = replace(load, work=load.work + more, backlog_s=load.backlog_s + waiting)
    assert decide(policy, memory, busier, NOW).desired >= decide(policy, memory, load, NOW).desired


@given(policies, st.integers(1, 15), loads)
def test_it_never_shrinks_on_missing_numbers(policy: Autoscaling, desired: int, load: Load) -> None:
    desired = max(policy.min_replicas, min(policy.max_replicas, desired))
    blind = replace(load, unknown=max(1, load.unknown))
    memory = Memory(desired, low_since=NOW - 10_000)
    assert decide(policy, memory, blind, NOW).desired >= desired


@given(policies, st.integers(1, 15), loads)
def test_it_never_shrinks_while_something_starts(policy: Autoscaling, desired: int, load: Load) -> None:
    desired = max(policy.min_replicas, min(policy.max_replicas, desired))
    memory = Memory(desired, low_since=NOW - 10_000)
    assert decide(policy, memory, replace(load, starting=1), NOW).desired >= desired


@given(policies, memories, loads)
def test_it_shrinks_by_one_at_most(policy: Autoscaling, memory: Memory, load: Load) -> None:
    inside = max(policy.min_replicas, min(policy.max_replicas, memory.desired))
    assert decide(policy, memory, load, NOW).desired >= inside - 1


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 60)), min_size=1, max_size=60))
def test_replicas_never_fall_within_the_hold(steps: list[tuple[float, int]]) -> None:
    """A whole history: between a moment that needed the replicas and their removal lies the hold."""
    memory, now, needed_at = Memory(1), NOW, NOW
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
def test_a_restart_changes_no_decision(memory: Memory, load: Load) -> None:
    """What status keeps (whole seconds) is all that the next decision needs."""
    memory = Memory(memory.desired, memory.low_since and float(int(memory.low_since)), None)
    status = {"autoscaling": {"desiredReplicas": memory.desired}}
    if memory.low_since:
        from topmast_operator.api.times import to_text

        status["autoscaling"]["lowSince"] = to_text(memory.low_since)  # type: ignore[assignment]
    remembered = remember(status, POLICY, running=3)
    assert decide(POLICY, remembered, load, NOW) == decide(POLICY, memory, load, NOW)


def test_the_whole_deficit_comes_at_once() -> None:
    decision = decide(POLICY, Memory(1), Load(work=3.0, ready=1), NOW)
    assert decision.desired == 5  # 3.0 / 0.65
    assert decision.reason == "up from 1 to 5: work of 3.0 replicas"


def test_starting_replicas_count_as_supply() -> None:
    load = Load(work=1.5, ready=1, starting=2)
    assert decide(POLICY, Memory(3), load, NOW).desired == 3


def test_one_leaves_after_the_hold_and_the_next_only_after_another() -> None:
    memory, now, changes = Memory(3), NOW, []
    for _ in range(100):
        decision = decide(POLICY, memory, Load(ready=memory.desired), now)
        if decision.desired != memory.desired:
            changes.append(now - NOW)
        memory, now = decision.memory, now + 10
    assert changes == [300, 610]


def test_a_capped_demand_says_so() -> None:
    decision = decide(POLICY, Memory(8), Load(work=20, ready=8), NOW)
    assert decision.desired == 8
    assert "31 would be needed but maxReplicas is 8" in decision.reason


def test_replicas_that_find_no_node_do_not_keep_the_fleet_large() -> None:
    memory = Memory(4, low_since=NOW - 301)
    assert decide(POLICY, memory, Load(ready=2, stuck=2), NOW).desired == 3


def test_switching_on_removes_nothing_at_once() -> None:
    assert remember({}, POLICY, running=5).desired == 5
    assert remember({}, POLICY, running=50).desired == 8


def test_load_is_summed_over_ready_pods_in_replica_units() -> None:
    scaled = model(autoscaling={"maxReplicas": 4})
    busy = engine(
        offered_input_tokens_per_s=500.0, output_tokens_per_s=50.0, waiting_prompt_tokens=2000, kv_tokens_used=250
    )
    pods = [
        pod(scaled, 1, engine=busy),
        pod(scaled, 2, engine=busy),
        pod(scaled, 3, engine=engine(age_s=60.0)),
        pod(scaled, 4, ready=False),
        pod(scaled, 5, ready=False, scheduled=False),
        pod(scaled, 6, deleting=True, engine=busy),
    ]
    assert measure(pods) == Load(work=2.0, kv=0.5, backlog_s=4.0, ready=3, starting=1, stuck=1, unknown=1)
