"""The paged KV cache's book-keeping: which blocks are free and how many owners each has. Arrays, not objects.

It holds no tensors; the model owns those.
"""

from __future__ import annotations

import numpy as np


class BlockPool:
    """`total` blocks of `block_size` tokens. A block with no owner is free; taking one makes one owner."""

    def __init__(self, total: int, block_size: int) -> None:
        self.total, self.block_size = total, block_size
        self._owners = np.zeros(total, np.int32)
        self._free = np.arange(total - 1, -1, -1, dtype=np.int32)  # a stack; the most recently freed is reused first
        self._free_count = total

    @property
    def free(self) -> int:
        """Blocks that nobody owns."""
        return self._free_count

    @property
    def used(self) -> int:
        """Blocks that somebody owns."""
        return self.total - self._free_count

    def blocks_for(self, tokens: int) -> int:
        """Blocks that `tokens` tokens need."""
        return -(-tokens // self.block_size)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks with one owner each, or None, and nothing taken, when there are not as many."""
        if count > self._free_count:
            return None
        self._free_count -= count
        taken = self._free[self._free_count : self._free_count + count]
        self._owners[taken] = 1
        return [int(block) for block in taken[::-1]]

    def share(self, blocks: list[int]) -> None:
        """One more owner for each of `blocks`."""
        self._owners[blocks] += 1

    def release(self, blocks: list[int]) -> None:
        """One owner less for each of `blocks`; those without any are free again."""
        for block in blocks:
            if self._owners[block] <= 0:
                raise AssertionError(f"KV block {block} was released more often than it was taken")
            self._owners[block] -= 1
            if self._owners[block] == 0:
                self._free[self._free_count] = block
                self._free_count += 1
