"""Who computes what in the next step. Pure book-keeping over sequences and blocks: no tensors, no clock, no pipe."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from topmast_server.engine.kv import BlockPool
from topmast_server.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Work:
    """Compute `count` tokens of a sequence from position `start`; sample when they reach its end."""

    sequence: Sequence
    start: int
    count: int
    sample: bool


@dataclass(slots=True)
class Plan:
    """One step. `preempted` lost their blocks and wait again; they will be computed anew."""

    budget: int
    work: list[Work] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)

    def add(self, sequence: Sequence, count: int) -> None:
        """Give a sequence its next `count` tokens."""
        self.work.append(Work(sequence, sequence.computed, count, sample=count == sequence.remaining))
        self.budget -= count


class Scheduler:
    """Waiting and running sequences, oldest first. The oldest one always advances, so nobody starves."""

    def __init__(self, pool: BlockPool, *, max_num_seqs: int, max_model_len: int) -> None:
        self.pool, self.max_num_seqs, self.max_model_len = pool, max_num_seqs, max_model_len
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0

    @property
    def has_work(self) -> bool:
        """Whether another step is due."""
        return bool(self.waiting or self.running)

    def refusal(self, prompt_tokens: int) -> str | None:
        """Why a prompt can never be served; None when it can."""
        if prompt_tokens == 0:
            return "The prompt is empty; send at least one token."
        room = min(self.max_model_len, self.pool.total * self.pool.block_size)
        if prompt_tokens >= room:
            return (
                f"The prompt has {prompt_tokens} tokens, and prompt and answer together may have {room}; "
                "shorten the prompt."
            )
        return None

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that `refusal` did not refuse; its answer is clipped to what fits."""
        room = min(self.max_model_len, self.pool.total * self.pool.block_size) - sequence.prompt_len
        sequence.max_tokens = max(1, min(sequence.max_tokens, room))
        bisect.insort(self.waiting, sequence, key=_by_arrival)

    def remove(self, sequence: Sequence) -> None:
        """Finished or cancelled, in whatever state: forget it and free its blocks."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self._free(sequence)

    def plan_step(self, budget: int) -> Plan:
        """Decodes first, then prefills in progress, then admissions, within one token budget."""
        plan = Plan(budget=max(budget, self.max_num_seqs))
        self._add_decodes(plan)  # may preempt: a decode never waits for a prefill
        self._continue_prefills(plan)
        if not plan.preempted:  # admitting right after a preemption would undo it
            self._admit_waiting(plan)
        return plan

    def _add_decodes(self, plan: Plan) -> None:
        for sequence in [s for s in self.running if s.remaining == 1]:
            if sequence in self.running and self._make_room(sequence, plan):
                plan.add(sequence, 1)

    def _continue_prefills(self, plan: Plan) -> None:
        for sequence in [s for s in self.running if s.remaining > 1]:
            if plan.budget > 0:
                plan.add(sequence, min(sequence.remaining, plan.budget))

    def _admit_waiting(self, plan: Plan) -> None:
        while self.waiting and plan.budget > 0 and len(self.running) < self.max_num_seqs:
            sequence = self.waiting[0]
            # One block in hand for each that runs: admitting into the last blocks would mean to preempt at once.
            needed = self.pool.blocks_for(len(sequence.tokens))
            if self.running and self.pool.free - needed < len(self.running):
                return
            blocks = self.pool.take(needed)
            if blocks is None:
                return
            sequence.blocks = blocks
            self.waiting.pop(0)
            bisect.insort(self.running, sequence, key=_by_arrival)
            plan.add(sequence, min(sequence.remaining, plan.budget))

    def _make_room(self, sequence: Sequence, plan: Plan) -> bool:
        """A block for the next token, if need be at the youngest one's cost. False: `sequence` itself had to yield."""
        while len(sequence.blocks) * self.pool.block_size < len(sequence.tokens):
            taken = self.pool.take(1)
            if taken is not None:
                sequence.blocks += taken
                continue
            victim = self.running[-1]
            self._preempt(victim, plan)
            if victim is sequence:
                return False
        return True

    def _preempt(self, victim: Sequence, plan: Plan) -> None:
        self.preemptions += 1
        self.running.remove(victim)
        for work in [w for w in plan.work if w.sequence is victim]:
            plan.work.remove(work)
            plan.budget += work.count
        self._free(victim)
        plan.preempted.append(victim)
        bisect.insort(self.waiting, victim, key=_by_arrival)

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0


def _by_arrival(sequence: Sequence) -> int:
    return sequence.arrival
