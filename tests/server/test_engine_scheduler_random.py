"""The planner against random traffic: its promises hold after every step, and everything is free at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine_traffic import BLOCK, Contents, Rows, sequence
from topmast_server.engine.kv import BlockPool
from topmast_server.engine.plan import Plan
from topmast_server.engine.scheduler import Scheduler
from topmast_server.engine.sequence import Sequence

STEP_S = 5.0  # ageing takes 30


@dataclass(frozen=True)
class Arrival:
    step: int
    family: int  # prompts of one family begin alike
    prompt: int
    answer: int
    priority: int
    patience: int | None  # steps until its deadline
    cancel: int | None  # steps until its client leaves
    salt: str


arrivals = st.lists(
    st.builds(
        Arrival,
        step=st.integers(0, 12),
        family=st.integers(0, 2),
        prompt=st.integers(1, 30),
        answer=st.integers(1, 20),
        priority=st.integers(0, 2),
        patience=st.none() | st.integers(0, 60),
        cancel=st.none() | st.integers(0, 30),
        salt=st.sampled_from(["", "", "mine"]),
    ),
    min_size=1,
    max_size=25,
)


def check(scheduler: Scheduler, plan: Plan, rows: int, before: list[Sequence], waited: list[Sequence]) -> None:
    """`before` ran and `waited` waited when the step was planned."""
    planned = [work.sequence for work in plan.work]
    assert sum(work.count for work in plan.work) <= max(rows, 1 + len(before))
    assert len(set(planned)) == len(planned) and set(planned) <= set(scheduler.running)
    assert len(scheduler.running) <= scheduler.max_num_seqs
    assert scheduler.running == sorted(scheduler.running, key=lambda one: one.rank)
    assert scheduler.tables.problems(scheduler.running) == []
    assert all(not one.blocks and one.computed == 0 for one in scheduler.waiting)
    if scheduler.has_work:
        assert plan.work
        assert scheduler.running[0] in planned, "the first in rank did not advance"
    for one in scheduler.running:
        if one in before and one.remaining == 1:
            assert one in planned, "a decode had to wait"
    for newcomer in [one for one in waited if one in scheduler.running]:
        for passed in [one for one in scheduler.waiting if one.rank < newcomer.rank and one not in plan.preempted]:
            assert scheduler.tables.coming(passed, scheduler.tables.cached(passed)), "a newcomer passed it"
    for victim in plan.preempted:
        behind = [one for one in before if one.rank > victim.rank and one in scheduler.running]
        assert not behind or victim.rank > min(one.rank for one in scheduler.running), "the first in rank was preempted"


@settings(max_examples=150, deadline=None)
@given(
    traffic=arrivals,
    blocks=st.integers(9, 40),
    slots=st.integers(1, 6),
    rows=st.integers(1, 40),
    reuse=st.booleans(),
    hopeful=st.booleans(),
)
def test_random_traffic_is_all_served_and_everything_freed(
    traffic: list[Arrival], blocks: int, slots: int, rows: int, reuse: bool, hopeful: bool
) -> None:
    scheduler = Scheduler(
        BlockPool(blocks, BLOCK), Rows(rows), max_num_seqs=slots, max_model_len=64, prefix_cache=reuse
    )
    contents = Contents(scheduler)
    for _ in range(100 * hopeful):
        scheduler.lengths.observe(1)  # answers were short lately: too many are let in, and some must yield
    pending, leaving, expected = [], [], []
    for number, one in enumerate(traffic):
        tokens = [(one.family + place // 7) % 3 for place in range(one.prompt)]
        deadline_s = math.inf if one.patience is None else (one.step + one.patience) * STEP_S
        made = sequence(
            number,
            tokens,
            one.answer,
            at_s=one.step * STEP_S,
            priority=one.priority,
            deadline_s=deadline_s,
            salt=one.salt,
        )
        if scheduler.refusal(made.prompt_len) is None:
            pending.append((one.step, made))
            if one.cancel is not None:
                leaving.append((one.step + one.cancel, made))
            elif one.patience is None:
                expected.append(made)
    for step in range(5000):
        for entry in [entry for entry in pending if entry[0] <= step]:
            scheduler.add(entry[1])
            pending.remove(entry)
        for _, one in [entry for entry in leaving if entry[0] == step]:
            if one in scheduler.running or one in scheduler.waiting:
                scheduler.remove(one)
        if not pending and not scheduler.has_work:
            break
        everybody = [*scheduler.running, *scheduler.waiting]
        late = [one for one in everybody if one.deadline_s <= step * STEP_S]
        before = [one for one in scheduler.running if one not in late]
        waited = [one for one in scheduler.waiting if one not in late]
        plan = scheduler.plan_step(step * STEP_S)
        assert plan.expired == late
        check(scheduler, plan, rows, before, waited)
        contents.compute(plan)
    else:
        raise AssertionError("somebody starved")
    assert all(one.made == one.max_tokens for one in expected)
    assert scheduler.pool.used == 0
    assert scheduler.tables.problems([]) == []


@settings(max_examples=50, deadline=None)
@given(traffic=arrivals, blocks=st.integers(16, 40), rows=st.integers(1, 40))
def test_the_cache_changes_no_token(traffic: list[Arrival], blocks: int, rows: int) -> None:
    answers = []
    for reuse in (True, False):
        scheduler = Scheduler(
            BlockPool(blocks, BLOCK), Rows(rows), max_num_seqs=4, max_model_len=64, prefix_cache=reuse
        )
        contents = Contents(scheduler)
        everybody = []
        for number, one in enumerate(traffic):
            tokens = [(one.family + place // 7) % 3 for place in range(one.prompt)]
            everybody.append(sequence(number, tokens, one.answer, salt=one.salt))
            scheduler.add(everybody[-1])
        while scheduler.has_work:
            contents.compute(scheduler.plan_step(0.0))
        answers.append([one.tokens for one in everybody])
    assert answers[0] == answers[1]
