"""Who computes what in the next step. Pure book-keeping over sequences and blocks: no tensors, no clock, no pipe."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection
from typing import Protocol

from topmast_server.engine.budget import Budget
from topmast_server.engine.kv import BlockPool
from topmast_server.engine.kv_peak import AnswerLengths, future_peak
from topmast_server.engine.plan import Plan
from topmast_server.engine.sequence import Sequence
from topmast_server.engine.tables import Tables

_RESERVE = 100  # one block in so many stays out of the plans for the future, which are estimates
_MOST_PASSED = 64  # who wait for a prefix that another one computes, and let those behind them pass
_ENOUGH_FREE = 8  # after a preemption, one block in so many must be free before anybody is admitted again


class StepBudgets(Protocol):
    """Who says how much one step may hold."""

    def budget(self, decode_rows: int) -> Budget:
        """Beside so many decodes."""


class Scheduler:
    """Waiting and running sequences by rank: first come, first served within a class of priority, and ageing between.

    Nobody starves: the first that runs always advances, nobody passes the first that waits (unless that one waits for
    a prefix which another one is computing), and a newcomer of the next better class ranks behind those who have waited
    for AGEING_S.
    """

    def __init__(
        self,
        pool: BlockPool,
        step_time: StepBudgets,
        *,
        max_num_seqs: int,
        max_model_len: int,
        prefix_cache: bool = True,
    ) -> None:
        self.pool, self.step_time, self.max_num_seqs, self.max_model_len = pool, step_time, max_num_seqs, max_model_len
        self.tables = Tables(pool, reuse=prefix_cache)
        self.lengths = AnswerLengths()
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = self.queried_tokens = self.hit_tokens = 0
        self._reserved = 0  # blocks that the running ones would take if each used up its max_tokens and shared nothing
        self._next_deadline_s = math.inf  # no deadline is earlier
        self._holding = False  # a preemption was needed: admitting now would only cause the next one
        self._full_for: Sequence | None = None  # it waits for memory, and nobody has left since

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
        self._next_deadline_s = min(self._next_deadline_s, sequence.deadline_s)
        bisect.insort(self.waiting, sequence, key=_by_rank)

    def remove(self, sequence: Sequence) -> None:
        """Finished, expired or cancelled, in whatever state: forget it and free its blocks."""
        if sequence.blocks:
            self._stop(sequence)
            self._holding, self._full_for = False, None
        else:
            self.waiting.remove(sequence)
        if sequence.made:
            self.lengths.observe(sequence.made)

    def reset(self) -> None:
        """Forget every content, length and count; nothing may wait or run."""
        assert not self.has_work
        self.tables.reset()
        self.lengths = AnswerLengths()
        self.preemptions = self.queried_tokens = self.hit_tokens = 0

    def plan_step(self, now_s: float) -> Plan:
        """Decodes first, then prefills in progress, then admissions, within one budget of rows and time."""
        expired = self._expire(now_s)
        decodes = [sequence for sequence in self.running if sequence.remaining == 1]
        plan = Plan(self.step_time.budget(len(decodes)), expired=expired)
        self._add_decodes(decodes, plan)  # may preempt: a decode never waits for a prefill
        prefilling = [sequence for sequence in self.running if sequence.remaining > 1]
        if prefilling and not plan.preempted:
            self._admit_waiting(now_s, plan, ahead_of=prefilling[0])  # a better class does not wait for a long prompt
        self._continue_prefills(prefilling, plan)
        if not plan.preempted:  # admitting right after a preemption would undo it
            self._admit_waiting(now_s, plan)
        return plan

    def _expire(self, now_s: float) -> list[Sequence]:
        if now_s < self._next_deadline_s:
            return []
        expired = [one for one in (*self.running, *self.waiting) if one.deadline_s <= now_s]
        for sequence in expired:
            self.remove(sequence)
        everybody = (*self.running, *self.waiting)
        self._next_deadline_s = min((one.deadline_s for one in everybody), default=math.inf)
        return expired

    def _add_decodes(self, decodes: list[Sequence], plan: Plan) -> None:
        for sequence in decodes:
            # One without blocks has just been preempted.
            if sequence.blocks and self._make_room(sequence, plan):
                plan.add_decode(sequence)

    def _continue_prefills(self, prefilling: list[Sequence], plan: Plan) -> None:
        for sequence in prefilling:
            if sequence.blocks and not plan.add_chunk(sequence):
                return

    def _admit_waiting(self, now_s: float, plan: Plan, ahead_of: Sequence | None = None) -> None:
        for sequence in self.waiting[: self.max_num_seqs - len(self.running) + _MOST_PASSED]:
            if ahead_of is not None and sequence.rank > ahead_of.rank:
                return
            cached = self.tables.cached(sequence)
            if self.tables.coming(sequence, cached):
                continue  # the one ahead computes it for both: in a step or two it is here for the taking
            start = len(cached) * self.pool.block_size
            if not plan.budget.chunk(start, len(sequence.tokens) - start):
                return
            if not self._find_room(sequence, cached, plan):
                return
            self._admit(sequence, cached, now_s)
            plan.add_chunk(sequence)
            if plan.preempted:
                return

    def _find_room(self, sequence: Sequence, cached: list[int], plan: Plan) -> bool:
        """Whether it may run now, if need be in the place of lower classes that rank behind it."""
        if self._full_for is sequence:
            return False
        if self._fits(sequence, cached):
            return True
        victims = self._victims(sequence, cached)
        for victim in victims:
            self._preempt(victim, plan)
        if not victims and len(self.running) < self.max_num_seqs and not self._holding:
            self._full_for = sequence
        return bool(victims)

    def _victims(self, sequence: Sequence, cached: list[int]) -> list[Sequence]:
        """Who has to leave for it: the cheapest of the lower classes behind it, and nobody in vain."""
        lower = [one for one in self.running if one.priority > sequence.priority and one.rank > sequence.rank]
        if not lower or not self._fits(sequence, cached, lower):
            return []
        victims: list[Sequence] = []
        for one in sorted(lower, key=self._cost):
            victims.append(one)
            if self._fits(sequence, cached, victims):
                break
        for one in victims[-2::-1]:  # cheaper than the last one, and perhaps not needed beside it: the dearest first
            others = [other for other in victims if other is not one]
            if self._fits(sequence, cached, others):
                victims = others
        return victims

    def _fits(self, sequence: Sequence, cached: list[int], gone: Collection[Sequence] = ()) -> bool:
        """Whether it can run beside those who run, without those who would be `gone`."""
        running = [one for one in self.running if one not in gone] if gone else self.running
        if not running:
            return True
        if len(running) >= self.max_num_seqs:
            return False
        freed = self.pool.freed_by(one.blocks for one in gone)
        if self._holding and (self.pool.free + len(freed)) * _ENOUGH_FREE < self.pool.total:
            return False
        room = self.pool.total - self.pool.total // _RESERVE
        reserved = self._reserved - sum(self._most_blocks(one) for one in gone)
        if reserved + self._most_blocks(sequence) <= room:
            return True  # whatever happens; most of the time there is no need to look further
        return future_peak(self.pool, self.lengths, running, sequence, cached, freed) <= room

    def _admit(self, sequence: Sequence, cached: list[int], now_s: float) -> None:
        self.tables.attach(sequence, cached)
        self.waiting.remove(sequence)
        bisect.insort(self.running, sequence, key=_by_rank)
        self._reserved += self._most_blocks(sequence)
        self._holding = False
        if sequence.admitted_s is None:
            sequence.admitted_s = now_s
            sequence.cached_tokens = sequence.computed
            self.queried_tokens += sequence.prompt_len
            self.hit_tokens += sequence.computed

    def _make_room(self, sequence: Sequence, plan: Plan) -> bool:
        """A block for its next token, if need be at the cost of one behind. False: it had to yield itself."""
        while not self.tables.grow(sequence):
            victim = self._cheapest([one for one in self.running if one.rank > sequence.rank]) or sequence
            self._preempt(victim, plan)
            self._holding = True
            if victim is sequence:
                return False
        return True

    def _cheapest(self, candidates: list[Sequence]) -> Sequence | None:
        """The one that costs least to preempt."""
        return min(candidates, key=self._cost, default=None)

    def _cost(self, one: Sequence) -> tuple[float, float, float]:
        """Orders by tokens to compute again, the last in rank first; what others hold, too, is there when it comes
        back.
        """
        again = one.computed - self.pool.block_size * self.pool.shared_head(one.blocks)
        return again, -one.rank[0], -one.rank[1]

    def _preempt(self, victim: Sequence, plan: Plan) -> None:
        self.preemptions += 1
        victim.preemptions += 1
        plan.drop(victim)
        self._stop(victim)
        bisect.insort(self.waiting, victim, key=_by_rank)

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.tables.release(sequence)
        self._reserved -= self._most_blocks(sequence)

    def _most_blocks(self, sequence: Sequence) -> int:
        return self.pool.blocks_for(sequence.prompt_len + sequence.max_tokens)


def _by_rank(sequence: Sequence) -> tuple[float, int]:
    return sequence.rank
