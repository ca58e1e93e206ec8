"""What one step may still hold: rows, and seconds where a chunk of a prompt would delay somebody's next token."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

GRAIN = 16  # chunks are multiples of it, but for a prompt's last one: the kernels' tiles are as wide


@dataclass(slots=True)
class Budget:
    """Mutable: a plan spends it. `token_s(position)` is what a prompt's token at that position costs, in seconds."""

    rows: int
    seconds: float = math.inf
    token_s: Callable[[int], float] | None = None
    least: int = GRAIN  # what the first chunk gets however dear it is: a prompt must get on beside many decodes

    def chunk(self, start: int, wanted: int) -> int:
        """How many of `wanted` tokens from position `start` on fit."""
        count = min(wanted, self.rows)
        if self.token_s is not None and count > 0:
            each_s = self.token_s(start + count // 2)
            if each_s * count > self.seconds:
                affordable = max(0, int(self.seconds / each_s)) // GRAIN * GRAIN
                count = min(count, max(self.least, affordable))
        return count

    def spend(self, start: int, count: int) -> None:
        """A chunk is in the plan; the next one has no claim to the least."""
        self.least = 0
        self._add(start, -count)

    def give_back(self, start: int, count: int) -> None:
        """The chunk leaves the plan again."""
        self._add(start, count)

    def _add(self, start: int, count: int) -> None:
        self.rows += count
        if self.token_s is not None:
            self.seconds += count * self.token_s(start + abs(count) // 2)
