"""What one step computes: pieces of work within a budget, and who lost its place for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from topmast_server.engine.budget import Budget
from topmast_server.engine.sequence import Sequence


@dataclass(slots=True)
class Work:
    """Compute `count` tokens of a sequence from position `start`; sample when they reach its end.

    Nobody changes one; it is not frozen only because those take three times as long to make, for every row of a step.
    """

    sequence: Sequence
    start: int
    count: int
    sample: bool


@dataclass(slots=True)
class Plan:
    """One step. `preempted` lost their blocks and wait again; `expired` are past their deadlines and gone."""

    budget: Budget
    work: list[Work] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    expired: list[Sequence] = field(default_factory=list)

    def add_decode(self, sequence: Sequence) -> None:
        """Its next token; decodes are in the budget from the beginning."""
        self.work.append(Work(sequence, sequence.computed, 1, sample=True))

    def add_chunk(self, sequence: Sequence) -> bool:
        """As much of its prompt as fits; False when nothing does."""
        start, remaining = sequence.computed, sequence.remaining
        count = self.budget.chunk(start, remaining)
        if count == 0:
            return False
        self.budget.spend(start, count)
        self.work.append(Work(sequence, start, count, sample=count == remaining))
        return True

    def drop(self, victim: Sequence) -> None:
        """It is preempted: others have its part of the budget."""
        for work in [work for work in self.work if work.sequence is victim]:
            self.work.remove(work)
            self.budget.give_back(work.start, work.count)
        self.preempted.append(victim)
