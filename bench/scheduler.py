"""What planning costs: microseconds per step with a full batch and a long queue, without a model.

    python bench/scheduler.py

Each line is one load: every slot is taken and 256 sequences wait. The target is 100 microseconds a step: under one in
a hundred of the fastest step of a small model on a CPU.
"""

from __future__ import annotations

import random
import statistics
import time

from topmast_server.engine.kv import BlockPool
from topmast_server.engine.scheduler import Scheduler
from topmast_server.engine.sequence import Sequence
from topmast_server.engine.step_time import StepTime
from topmast_server.messages import Sampling

SLOTS, WAITING, STEPS, BLOCK = 32, 256, 600, 32


def sequence(number: int, answer: int, shared: list[int]) -> Sequence:
    """A prompt of 128 tokens."""
    own = random.Random(number).choices(range(49152), k=128 - len(shared))
    return Sequence(
        request_id=str(number),
        tokens=[*shared, *own],
        prompt_len=128,
        max_tokens=answer,
        sampling=Sampling(),
        seed=0,
        stop_ids=frozenset(),
        arrival=number,
        arrival_s=float(number),
    )


def measure(name: str, *, blocks: int, answer: int, shared: int = 0, hopeful: bool = False) -> None:
    """Run one load; as sequences end, others arrive, so that the queue keeps its length."""
    step_time = StepTime(0.15, most=1024, full_batch=16)
    step_time.learn(decode_rows=0, prefill_rows=256, position=128, seconds=0.25)
    step_time.learn(decode_rows=SLOTS, prefill_rows=0, position=0, seconds=0.04)
    scheduler = Scheduler(BlockPool(blocks, BLOCK), step_time, max_num_seqs=SLOTS, max_model_len=8192)
    head = random.Random(0).choices(range(49152), k=shared)
    arrived = 0
    planned, advanced = [], []
    for step in range(STEPS):
        while len(scheduler.waiting) < WAITING:
            scheduler.add(sequence(arrived, answer, head))
            arrived += 1
        if hopeful:
            scheduler.lengths.observe(1)  # too many are let in, and some are preempted
        started = time.perf_counter()
        plan = scheduler.plan_step(float(step))
        planned_at = time.perf_counter()
        for work in plan.work:
            scheduler.tables.advance(work.sequence, work.count)
        advanced.append(time.perf_counter() - planned_at)
        planned.append(planned_at - started)
        for work in plan.work:
            if work.sample:
                work.sequence.tokens.append(step)
                if work.sequence.made >= work.sequence.max_tokens:
                    scheduler.remove(work.sequence)
    plan_us, advance_us = (statistics.quantiles([1e6 * s for s in times], n=20) for times in (planned, advanced))
    print(
        f"{name:34} {len(scheduler.running):3} run   plan {plan_us[9]:4.0f} us (p95 {plan_us[18]:4.0f})   "
        f"after the step {advance_us[9]:3.0f} us (p95 {advance_us[18]:3.0f})   {scheduler.preemptions} preemptions"
    )


def main() -> None:
    """Every load once."""
    measure("decode only", blocks=4000, answer=10_000)
    measure("answers of 64 tokens", blocks=4000, answer=64)
    measure("answers of 64, 96 tokens shared", blocks=4000, answer=64, shared=96)
    measure("memory is short", blocks=160, answer=200)
    measure("memory is short and overcommitted", blocks=160, answer=200, hopeful=True)


if __name__ == "__main__":
    main()
