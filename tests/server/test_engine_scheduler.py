"""The planner's promises, one by one. Random traffic is in test_engine_scheduler_random.py."""

from __future__ import annotations

import pytest

from server.engine_traffic import BLOCK, Contents, new_scheduler, run, sequence
from topmast_server.engine.budget import Budget
from topmast_server.engine.scheduler import Scheduler
from topmast_server.engine.sequence import AGEING_S, Sequence


def admit(scheduler: Scheduler, *sequences: Sequence) -> Contents:
    """Queue these and compute one step."""
    contents = Contents(scheduler)
    for one in sequences:
        scheduler.add(one)
    contents.compute(scheduler.plan_step(0.0))
    return contents


def test_a_running_decode_gets_its_token_in_every_step_of_a_long_prefill() -> None:
    scheduler = new_scheduler(rows=16)
    talker, reader = sequence(0, 3, 50), sequence(1, 200, 1)
    contents = admit(scheduler, talker)
    scheduler.add(reader)
    while reader in [*scheduler.waiting, *scheduler.running]:
        plan = scheduler.plan_step(0.0)
        assert plan.work[0].sequence is talker
        assert sum(work.count for work in plan.work) <= 16
        contents.compute(plan)


def test_better_classes_go_first_and_equals_in_order_of_arrival() -> None:
    scheduler = new_scheduler(slots=1)
    batch, normal, late, urgent = (
        sequence(0, 4, 2, at_s=0.0, priority=2),
        sequence(1, 4, 2, at_s=1.0),
        sequence(2, 4, 2, at_s=2.0),
        sequence(3, 4, 2, at_s=3.0, priority=0),
    )
    for one in (late, batch, urgent, normal):
        scheduler.add(one)
    order = [plan.work[0].sequence for plan in run(Contents(scheduler)) if plan.work[0].start == 0]
    assert order == [urgent, normal, late, batch]


def test_a_batch_request_that_has_waited_is_ahead_of_newcomers() -> None:
    scheduler = new_scheduler(slots=1)
    old = sequence(0, 4, 2, at_s=0.0, priority=2)
    contents = admit(scheduler, sequence(9, 4, 9, at_s=0.0, priority=0))
    scheduler.add(old)
    newcomers = [sequence(n, 4, 2, at_s=2 * AGEING_S + n, priority=0) for n in range(1, 5)]
    for one in newcomers:
        scheduler.add(one)
    order = [work.sequence for plan in run(contents, from_s=80.0) for work in plan.work if work.start == 0]
    assert order == [old, *newcomers]


def test_an_interactive_request_takes_the_place_of_a_batch_request_when_all_are_taken() -> None:
    scheduler = new_scheduler(slots=2)
    batch, normal = sequence(0, 8, 40, priority=2), sequence(1, 8, 40)
    contents = admit(scheduler, batch, normal)
    urgent = sequence(2, 8, 2, at_s=1.0, priority=0)
    scheduler.add(urgent)
    plan = scheduler.plan_step(1.0)
    assert plan.preempted == [batch]
    assert {work.sequence for work in plan.work} == {normal, urgent}
    contents.compute(plan)
    run_on = [batch, normal]
    while scheduler.has_work:
        contents.compute(scheduler.plan_step(2.0))
    assert [one.made for one in run_on] == [40, 40]
    assert batch.preemptions == scheduler.preemptions == 1


def test_who_waits_for_a_prefix_keeps_no_seat_from_those_behind() -> None:
    """A seat stayed free until the prefix was there."""
    scheduler = new_scheduler(slots=3, rows=24)
    prompt = list(range(40))
    first, other = sequence(0, [*prompt, 1], 2), sequence(9, 4, 2, at_s=2.0)
    contents = admit(scheduler, first)
    for number in (1, 2, 3):
        scheduler.add(sequence(number, [*prompt, 1 + number], 2, at_s=1.0))
    scheduler.add(other)
    contents.compute(scheduler.plan_step(4.0))
    assert scheduler.running == [first, other]


def test_nobody_is_preempted_in_vain() -> None:
    """Three lost their places to one that did not fit in there either, and waited until the first had ended."""
    scheduler = new_scheduler(blocks=100, slots=8)
    old = sequence(0, 4, 248, priority=0)
    batch = [sequence(n, 8, 20, at_s=float(n), priority=2) for n in (1, 2, 3)]
    contents = admit(scheduler, old, *batch)
    assert len(scheduler.running) == 4
    scheduler.add(sequence(9, 200, 150, at_s=9.0, priority=0))
    for _ in range(20):
        plan = scheduler.plan_step(10.0)
        assert plan.preempted == []
        contents.compute(plan)
    while scheduler.has_work:
        contents.compute(scheduler.plan_step(10.0))
    assert scheduler.preemptions == 0


def test_no_more_are_preempted_than_have_to_leave() -> None:
    """Of the cheap ones that do not make room enough, none leaves where the dear one has to leave anyway."""
    scheduler = new_scheduler(blocks=40, slots=8)
    small = [sequence(n, 8, 8, at_s=float(n), priority=2) for n in (1, 2, 3)]
    large = sequence(4, 80, 12, at_s=4.0, priority=2)
    contents = admit(scheduler, *small, large)
    assert len(scheduler.running) == 4
    scheduler.add(sequence(9, 72, 40, at_s=9.0, priority=0))
    plan = scheduler.plan_step(10.0)
    assert plan.preempted == [large]
    contents.compute(plan)
    assert {*small} <= {*scheduler.running}


def test_nobody_is_preempted_for_one_of_its_own_class() -> None:
    scheduler = new_scheduler(slots=1)
    first = sequence(0, 8, 40)
    admit(scheduler, first)
    scheduler.add(sequence(1, 8, 2, at_s=1.0))
    assert scheduler.plan_step(1.0).preempted == []


def test_who_is_past_its_deadline_leaves_at_the_next_step_running_or_waiting() -> None:
    scheduler = new_scheduler(slots=1)
    runs, waits = sequence(0, 4, 50, deadline_s=5.0), sequence(1, 4, 50, deadline_s=3.0)
    patient = sequence(2, 4, 1)
    contents = admit(scheduler, runs, waits, patient)
    assert scheduler.plan_step(2.9).expired == []
    assert scheduler.plan_step(3.0).expired == [waits]
    plan = scheduler.plan_step(5.5)
    assert plan.expired == [runs]
    assert runs.blocks == []
    assert [work.sequence for work in plan.work] == [patient]
    contents.compute(plan)
    assert not scheduler.has_work
    assert scheduler.pool.used == 0


def test_the_cheapest_of_those_behind_is_the_victim() -> None:
    scheduler = new_scheduler(blocks=13, slots=3)
    for _ in range(200):  # answers were short lately, so that all are let in
        scheduler.lengths.observe(1)
    needy, dear, cheap = sequence(0, 8, 30), sequence(1, 19, 30), sequence(2, 11, 30)
    contents = admit(scheduler, needy, dear, cheap)
    assert scheduler.running == [needy, dear, cheap]
    preempted = [one for plan in run(contents) for one in plan.preempted]
    assert preempted[0] is cheap
    assert needy not in preempted
    assert [one.made for one in (needy, dear, cheap)] == [30, 30, 30]


def test_the_most_dear_one_is_the_victim_when_it_shares_nearly_all_of_its_blocks() -> None:
    scheduler = new_scheduler(blocks=15, slots=3)
    for _ in range(200):
        scheduler.lengths.observe(4)
    prompt = list(range(24))
    first, other, sharer = sequence(0, prompt, 30), sequence(1, 11, 30), sequence(2, [*prompt, 24], 30)
    contents = admit(scheduler, first)
    for one in (other, sharer):
        scheduler.add(one)
        contents.compute(scheduler.plan_step(0.0))
    assert len(scheduler.running) == 3
    assert next(one for plan in run(contents) for one in plan.preempted) is sharer


def test_with_nobody_behind_the_needy_one_yields_and_comes_back() -> None:
    scheduler = new_scheduler(blocks=5, slots=2)
    old, young = sequence(0, 4, 13), sequence(1, 4, 9)
    for length in [4] * 8:  # answers were short lately
        scheduler.lengths.observe(length)
    scheduler.add(old)
    scheduler.add(young)
    preempted = [one for plan in run(Contents(scheduler)) for one in plan.preempted]
    assert set(preempted) == {young}
    assert (old.made, young.made) == (13, 9)
    assert scheduler.pool.used == 0


def test_after_a_preemption_nobody_is_admitted_until_somebody_has_left() -> None:
    scheduler = new_scheduler(blocks=8, slots=4)
    for _ in range(200):  # answers were short lately, so that all are let in
        scheduler.lengths.observe(4)
    first, second = sequence(0, 8, 16), sequence(1, 8, 16)
    contents = admit(scheduler, first, second)
    newcomer = sequence(2, 4, 2)
    scheduler.add(newcomer)
    for _ in range(200):
        scheduler.lengths.observe(1)
    preempted_at, admitted_at, left_at = None, None, None
    for step in range(200):
        plan = scheduler.plan_step(0.0)
        contents.compute(plan)
        if plan.preempted and preempted_at is None:
            preempted_at = step
        if preempted_at is not None and admitted_at is None and {second, newcomer} & set(scheduler.running):
            admitted_at = step
        if first not in scheduler.running and left_at is None:
            left_at = step
        if not scheduler.has_work:
            break
    assert preempted_at is not None and admitted_at is not None and left_at is not None
    assert preempted_at < left_at < admitted_at


def test_answers_that_end_at_different_times_share_memory_that_would_not_hold_both_to_the_end() -> None:
    # 10 blocks of 4. The long one needs 10 at its end; the short one is gone by then.
    scheduler = new_scheduler(blocks=10)
    long, short = sequence(0, 4, 36), sequence(1, 4, 4)
    contents = admit(scheduler, long, short)
    assert scheduler.running == [long, short]
    assert [plan.preempted for plan in run(contents) if plan.preempted] == []


def test_answers_that_peak_together_do_not_start_together() -> None:
    scheduler = new_scheduler(blocks=10)
    contents = admit(scheduler, sequence(0, 4, 36), sequence(1, 4, 30))
    assert len(scheduler.running) == 1
    assert [plan.preempted for plan in run(contents) if plan.preempted] == []


def test_a_max_tokens_that_nobody_uses_up_does_not_keep_others_out() -> None:
    scheduler = new_scheduler(blocks=40, slots=8)
    for length in range(1, 11):
        scheduler.lengths.observe(length)
    admit(scheduler, *[sequence(n, 4, 150) for n in range(8)])
    assert len(scheduler.running) == 8


def test_a_cancel_frees_the_blocks_at_once_running_or_waiting() -> None:
    scheduler = new_scheduler(slots=1)
    runs, waits = sequence(0, 9, 9), sequence(1, 9, 9)
    admit(scheduler, runs, waits)
    scheduler.remove(waits)
    scheduler.remove(runs)
    assert not scheduler.has_work
    assert scheduler.pool.used == 0
    assert scheduler.tables.problems([]) == []


def test_a_prompt_that_can_never_fit_is_refused_with_both_numbers() -> None:
    scheduler = new_scheduler(blocks=8)
    refusal = scheduler.refusal(8 * BLOCK)
    assert refusal is not None
    assert "32 tokens" in refusal
    assert "shorten the prompt" in refusal
    assert scheduler.refusal(31) is None
    assert scheduler.refusal(0) is not None


def test_choices_of_one_request_compute_their_prompt_once() -> None:
    scheduler = new_scheduler(blocks=100, slots=8)
    prompt = list(range(41))
    choices = [sequence(n, prompt, 5) for n in range(4)]
    for one in choices:
        scheduler.add(one)
    plans = run(Contents(scheduler))
    rows = sum(work.count for plan in plans for work in plan.work if work.start < len(prompt))
    assert rows == 41 + 3 * 1
    assert len({tuple(one.tokens) for one in choices}) == 1
    assert (scheduler.queried_tokens, scheduler.hit_tokens) == (4 * 41, 3 * 40)


def test_the_one_ahead_does_not_wait_for_a_prefix_that_one_behind_computes() -> None:
    scheduler = new_scheduler(blocks=100, slots=8, rows=8)
    prompt = list(range(80))
    slow = sequence(0, prompt, 2, priority=2)
    contents = admit(scheduler, slow)
    urgent = sequence(1, prompt, 2, priority=0)
    scheduler.add(urgent)
    contents.compute(scheduler.plan_step(0.0))
    assert urgent in scheduler.running


@pytest.mark.parametrize(
    ("budget", "start", "wanted", "count"),
    [
        (Budget(100), 0, 250, 100),
        (Budget(100), 0, 7, 7),
        (Budget(1000, 0.05, lambda position: 0.001), 0, 250, 48),  # multiples of 16
        (Budget(1000, 0.05, lambda position: 0.001), 0, 50, 50),
        (
            Budget(1000, 0.05, lambda position: 0.001 + position / 1e6),
            4000,
            250,
            0 + 16,
        ),  # dearer far behind: the least
        (Budget(1000, -1.0, lambda position: 0.001), 0, 250, 16),  # decodes alone take longer than the goal
        (Budget(1000, -1.0, lambda position: 0.001, least=0), 0, 250, 0),  # the second prompt of such a step
    ],
)
def test_a_chunk_is_what_fits_in_rows_and_time(budget: Budget, start: int, wanted: int, count: int) -> None:
    assert budget.chunk(start, wanted) == count


def test_a_second_chunk_gets_what_the_first_has_left() -> None:
    budget = Budget(1000, 0.1, lambda position: 0.001)
    budget.spend(0, budget.chunk(0, 64))
    assert budget.chunk(0, 500) == 32
