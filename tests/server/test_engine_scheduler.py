"""The planner against random traffic: its promises hold after every step, and everything is free at the end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from topmast_server.engine.kv import BlockPool
from topmast_server.engine.scheduler import Plan, Scheduler
from topmast_server.engine.sequence import Sequence
from topmast_server.messages import Sampling

BLOCK = 4


def sequence(arrival: int, prompt: int, answer: int) -> Sequence:
    return Sequence(
        request_id=str(arrival),
        tokens=[1] * prompt,
        prompt_len=prompt,
        max_tokens=answer,
        sampling=Sampling(),
        seed=0,
        stop_ids=frozenset(),
        arrival=arrival,
    )


def apply(scheduler: Scheduler, plan: Plan) -> None:
    """What the engine does with a plan, without a model."""
    for work in plan.work:
        assert work.start == work.sequence.computed
        work.sequence.computed += work.count
        assert work.sequence.computed <= len(work.sequence.blocks) * BLOCK  # every row has a slot
        if work.sample:
            work.sequence.tokens.append(2)
            if work.sequence.made >= work.sequence.max_tokens:
                scheduler.remove(work.sequence)


def check(scheduler: Scheduler, plan: Plan, budget: int) -> None:
    assert sum(work.count for work in plan.work) <= max(budget, scheduler.max_num_seqs)
    assert len(scheduler.running) <= scheduler.max_num_seqs
    assert len({work.sequence.request_id for work in plan.work}) == len(plan.work)
    owned = [block for one in scheduler.running for block in one.blocks]
    assert len(owned) == len(set(owned)) == scheduler.pool.used
    assert all(not one.blocks and one.computed == 0 for one in scheduler.waiting)
    if scheduler.has_work:
        assert plan.work or plan.preempted


traffic = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=25)


@settings(max_examples=300, deadline=None)
@given(
    traffic=traffic,
    blocks=st.integers(9, 40),
    slots=st.integers(1, 6),
    budget=st.integers(1, 40),
    cancels=st.sets(st.integers(0, 24)),
)
def test_random_traffic_is_all_served_and_everything_freed(
    traffic: list[tuple[int, int, int]], blocks: int, slots: int, budget: int, cancels: set[int]
) -> None:
    scheduler = Scheduler(BlockPool(blocks, BLOCK), max_num_seqs=slots, max_model_len=64)
    pending = [(at, sequence(number, prompt, answer)) for number, (at, prompt, answer) in enumerate(traffic)]
    pending = [(at, one) for at, one in pending if scheduler.refusal(one.prompt_len) is None]
    for step in range(5000):
        for at, one in [entry for entry in pending if entry[0] <= step]:
            scheduler.add(one)
            pending.remove((at, one))
            assert one.prompt_len + one.max_tokens <= blocks * BLOCK  # it can finish alone
        for one in [*scheduler.running, *scheduler.waiting]:
            if one.arrival in cancels and step % 5 == 4:
                scheduler.remove(one)
        if not pending and not scheduler.has_work:
            break
        plan = scheduler.plan_step(budget)
        check(scheduler, plan, budget)
        apply(scheduler, plan)
    else:
        raise AssertionError("somebody starved")
    assert scheduler.pool.used == 0


def test_a_running_decode_gets_its_token_in_every_step_of_a_long_prefill() -> None:
    scheduler = Scheduler(BlockPool(100, BLOCK), max_num_seqs=4, max_model_len=400)
    talker, reader = sequence(0, 3, 50), sequence(1, 200, 1)
    scheduler.add(talker)
    apply(scheduler, scheduler.plan_step(16))
    scheduler.add(reader)
    while reader in [*scheduler.waiting, *scheduler.running]:
        plan = scheduler.plan_step(16)
        assert plan.work[0].sequence is talker
        assert sum(work.count for work in plan.work) <= 16
        apply(scheduler, plan)


def test_the_youngest_yields_its_blocks_and_starts_again() -> None:
    scheduler = Scheduler(BlockPool(5, BLOCK), max_num_seqs=2, max_model_len=20)
    old, young = sequence(0, 4, 16), sequence(1, 4, 8)
    for one in (old, young):
        scheduler.add(one)
    preempted = []
    while scheduler.has_work:
        plan = scheduler.plan_step(32)
        preempted += plan.preempted
        apply(scheduler, plan)
    assert set(preempted) == {young}
    assert (old.made, young.made) == (16, 8)
    assert scheduler.pool.used == 0


def test_a_prompt_that_can_never_fit_is_refused_with_both_numbers() -> None:
    scheduler = Scheduler(BlockPool(8, BLOCK), max_num_seqs=2, max_model_len=100)
    refusal = scheduler.refusal(32)
    assert refusal is not None
    assert "32 tokens" in refusal
    assert "shorten the prompt" in refusal
    assert scheduler.refusal(31) is None
    assert scheduler.refusal(0) is not None


def test_a_block_with_two_owners_is_free_after_both_release_it() -> None:
    pool = BlockPool(3, BLOCK)
    blocks = pool.take(2)
    assert blocks is not None
    pool.share(blocks)
    pool.release(blocks)
    assert pool.free == 1
    assert pool.take(2) is None
    pool.release(blocks)
    assert pool.free == 3
