"""The paged KV cache's book-keeping: how many owners each block has, and under which digest its content is known.

It holds no tensors (the model owns those) and knows no sequences. Arrays, not objects.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """`total` blocks of `block_size` tokens. A block with no owner is free; its content stays until it is taken.

    Free blocks lie in the order in which they are taken: first those whose content nobody can ask for, then the least
    recently used. A content is registered under one block only; a second block with the same content has no digest.
    """

    def __init__(self, total: int, block_size: int) -> None:
        self.total, self.block_size = total, block_size
        self.reset()

    def reset(self) -> None:
        """Forget every owner and every content."""
        self._owners = array("i", [0]) * self.total
        self._digests: list[bytes | None] = [None] * self.total
        self._known: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(self.total))

    @property
    def free(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Blocks that somebody owns."""
        return self.total - len(self._free)

    @property
    def known(self) -> int:
        """Blocks whose content can be found by its digest, owned or free."""
        return len(self._known)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that `tokens` tokens need."""
        return -(-tokens // self.block_size)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks with one owner each, or None, and nothing taken, when there are not as many."""
        if count > len(self._free):
            return None
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._forget(block)
            self._owners[block] = 1
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """One more owner for each of `blocks`, which may be free ones with a known content."""
        for block in blocks:
            if self._owners[block] == 0:
                del self._free[block]
            self._owners[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One owner less for each block of a sequence. Its tail is taken again before its head, which more can use."""
        for block in reversed(blocks):
            if self._owners[block] <= 0:
                raise AssertionError(f"KV block {block} was released more often than it was taken")
            self._owners[block] -= 1
            if self._owners[block] == 0:
                self._free[block] = None
                if self._digests[block] is None:
                    self._free.move_to_end(block, last=False)

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks with these contents, up to the first content that is not here. Nobody becomes an owner."""
        found = []
        for digest in digests:
            block = self._known.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def register(self, block: int, digest: bytes) -> None:
        """From now on `block`, which is computed and never written again, can be found. The first of a content wins."""
        if self._digests[block] is None and digest not in self._known:
            self._digests[block] = digest
            self._known[digest] = block

    def forget(self, blocks: Iterable[int]) -> None:
        """The contents of these owned blocks must not be found any more."""
        for block in blocks:
            self._forget(block)

    def count_free(self, blocks: Iterable[int]) -> int:
        """How many of these have no owner."""
        return sum(self._owners[block] == 0 for block in blocks)

    def freed_by(self, tables: Iterable[Sequence[int]]) -> set[int]:
        """The blocks that nobody would own any more if the owners of these tables left all at once."""
        leaving = Counter(block for table in tables for block in table)
        return {block for block, owners in leaving.items() if owners == self._owners[block]}

    def shared_head(self, blocks: Sequence[int]) -> int:
        """How many leading blocks of a sequence have other owners, too: who shares, shares from the beginning."""
        return bisect_left(blocks, True, key=lambda block: self._owners[block] < 2)

    def problems(self, tables: Iterable[Sequence[int]]) -> list[str]:
        """What does not add up when these block tables are all that there are; empty when everything does."""
        owned = Counter(block for table in tables for block in table)
        wrong = [block for block in range(self.total) if self._owners[block] != owned[block]]
        lost = [block for block in range(self.total) if (self._owners[block] == 0) != (block in self._free)]
        named = {digest: block for block, digest in enumerate(self._digests) if digest is not None}
        found = []
        if wrong:
            found.append(f"blocks {wrong[:8]} have {[self._owners[block] for block in wrong[:8]]} owners")
        if lost:
            found.append(f"blocks {lost[:8]} are free and owned, or neither")
        if named != self._known:
            found.append(f"{len(named)} blocks have a digest, and {len(self._known)} digests have a block")
        return found

    def _forget(self, block: int) -> None:
        digest = self._digests[block]
        if digest is not None:
            del self._known[digest]
            self._digests[block] = None
