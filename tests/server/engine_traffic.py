"""What the scheduler's tests share: sequences, budgets that are told, and a cache whose contents are token lists.

`Contents` stands for the device's memory. It checks every piece of work against it, so that a block which two write, or
one found under a wrong digest, fails at once.
"""

from __future__ import annotations

import math

from topmast_server.engine.budget import Budget
from topmast_server.engine.kv import BlockPool
from topmast_server.engine.plan import Plan
from topmast_server.engine.scheduler import Scheduler
from topmast_server.engine.sequence import Sequence
from topmast_server.messages import Sampling

BLOCK = 4


class Rows:
    """So many rows per step; decodes count, and a prompt gets at least one row."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def budget(self, decode_rows: int) -> Budget:
        return Budget(max(1, self.rows - decode_rows))


def sequence(
    arrival: int,
    prompt: int | list[int],
    answer: int,
    *,
    at_s: float = 0.0,
    priority: int = 1,
    deadline_s: float = math.inf,
    salt: str = "",
) -> Sequence:
    """A prompt of so many tokens that no other sequence has, or these tokens."""
    tokens = [1000 + arrival] * prompt if isinstance(prompt, int) else list(prompt)
    return Sequence(
        request_id=str(arrival),
        tokens=tokens,
        prompt_len=len(tokens),
        max_tokens=answer,
        sampling=Sampling(),
        seed=0,
        stop_ids=frozenset(),
        arrival=arrival,
        arrival_s=at_s,
        priority=priority,
        deadline_s=deadline_s,
        salt=salt,
    )


def new_scheduler(blocks: int = 100, *, slots: int = 4, rows: int = 1000, reuse: bool = True) -> Scheduler:
    return Scheduler(BlockPool(blocks, BLOCK), Rows(rows), max_num_seqs=slots, max_model_len=400, prefix_cache=reuse)


class Contents:
    """What the blocks hold: for each slot the token whose keys and values lie there, with its salt."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.slots: dict[tuple[int, int], tuple[str, int, int]] = {}  # (block, offset): (salt, position, token)
        self.histories: dict[int, list[int]] = {}  # block: all tokens up to its end when it was written

    def compute(self, plan: Plan) -> None:
        """What the engine does with a plan, without a model: the next token is a checksum of all before it."""
        tables = self.scheduler.tables
        for work in plan.work:
            one = work.sequence
            assert work.start == one.computed
            assert work.start + work.count <= min(len(one.tokens), len(one.blocks) * BLOCK)
            for position in range(work.start):
                block = one.blocks[position // BLOCK]
                assert self.slots[block, position % BLOCK] == (one.salt, position, one.tokens[position])
                assert self.histories[block][: position + 1] == one.tokens[: position + 1]
            for position in range(work.start, work.start + work.count):
                block = one.blocks[position // BLOCK]
                owners = [other for other in self.scheduler.running if block in other.blocks]
                assert owners == [one], "two own a block that one writes"
                self.slots[block, position % BLOCK] = (one.salt, position, one.tokens[position])
                self.histories[block] = one.tokens[: position + 1]
        for work in plan.work:
            tables.advance(work.sequence, work.count)
            if work.sample:
                work.sequence.tokens.append(sum(work.sequence.tokens) % 3)
                if work.sequence.made >= work.sequence.max_tokens:
                    self.scheduler.remove(work.sequence)


def run(contents: Contents, *, from_s: float = 0.0, each_s: float = 1.0, most_steps: int = 2000) -> list[Plan]:
    """Step until nothing is left to do."""
    scheduler, plans = contents.scheduler, list[Plan]()
    while scheduler.has_work:
        plan = scheduler.plan_step(from_s + each_s * len(plans))
        contents.compute(plan)
        plans.append(plan)
        assert len(plans) < most_steps, "somebody starved"
    return plans
