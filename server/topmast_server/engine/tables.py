"""Which blocks hold a sequence's keys and values, and which of them others can use: prefixes are computed once.

A full block's content is named by a digest over its tokens and everything before them, so that equal digests mean
equal keys and values. Generated tokens count like the prompt's: the next turn of a chat finds them.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

from topmast_server.engine.kv import BlockPool
from topmast_server.engine.sequence import Sequence

_DIGEST_BYTES = 16


class Tables:
    """The block tables of all running sequences. `reuse=False`: every sequence computes everything by itself."""

    def __init__(self, pool: BlockPool, *, reuse: bool) -> None:
        self.pool, self.reuse = pool, reuse
        self._coming: dict[bytes, Sequence] = {}  # contents that a running sequence is about to compute

    def cached(self, sequence: Sequence) -> list[int]:
        """Blocks that hold its beginning already. One token at least is left to compute: it gives the logits."""
        if not self.reuse:
            return []
        usable = (len(sequence.tokens) - 1) // self.pool.block_size
        self._name_blocks(sequence, usable)
        return self.pool.find(sequence.digests[:usable])

    def coming(self, sequence: Sequence, cached: list[int]) -> bool:
        """Whether one that is ahead of it is computing the very block that it needs next."""
        following = len(cached)
        if not self.reuse or following >= (len(sequence.tokens) - 1) // self.pool.block_size:
            return False
        other = self._coming.get(sequence.digests[following])
        return other is not None and other.rank < sequence.rank

    def attach(self, sequence: Sequence, cached: list[int]) -> None:
        """Blocks for all its tokens, of which the first are `cached`; there must be enough free ones."""
        self.pool.share(cached)  # first: taking must not evict them
        fresh = self.pool.take(self.pool.blocks_for(len(sequence.tokens)) - len(cached))
        assert fresh is not None, "admitted without looking at the free blocks"
        sequence.blocks = cached + fresh
        sequence.offered = len(cached)
        sequence.computed = len(cached) * self.pool.block_size
        if self.reuse:
            for digest in sequence.digests[len(cached) :]:
                self._coming.setdefault(digest, sequence)

    def grow(self, sequence: Sequence) -> bool:
        """Room for its newest token; False, and nothing changed, when no block is free."""
        if len(sequence.blocks) * self.pool.block_size >= len(sequence.tokens):
            return True
        taken = self.pool.take(1)
        if taken is None:
            return False
        sequence.blocks += taken
        return True

    def advance(self, sequence: Sequence, count: int) -> None:
        """`count` more tokens are computed; others find the blocks that this has filled."""
        sequence.computed += count
        full = sequence.computed // self.pool.block_size
        if self.reuse and full > sequence.offered:
            self._name_blocks(sequence, full)
            for place in range(sequence.offered, full):
                self.pool.register(sequence.blocks[place], sequence.digests[place])
                self._no_longer_coming(sequence, sequence.digests[place])
            sequence.offered = full

    def release(self, sequence: Sequence) -> None:
        """It leaves or starts again: its blocks have one owner less."""
        for digest in sequence.digests[sequence.offered :]:
            self._no_longer_coming(sequence, digest)
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.offered = 0

    def distrust(self, sequence: Sequence) -> None:
        """Its contents may be wrong: nobody who comes later may use them."""
        self.pool.forget(sequence.blocks)

    def problems(self, running: list[Sequence]) -> list[str]:
        """As BlockPool.problems, when these are all that have blocks."""
        found = self.pool.problems([sequence.blocks for sequence in running])
        strangers = {one.request_id for one in self._coming.values()} - {one.request_id for one in running}
        if strangers:
            found.append(f"blocks are awaited from {sorted(strangers)[:8]}, which do not run")
        return found

    def reset(self) -> None:
        """Forget every content and every owner; nobody may run."""
        self.pool.reset()
        self._coming.clear()

    def _no_longer_coming(self, sequence: Sequence, digest: bytes) -> None:
        if self._coming.get(digest) is sequence:
            del self._coming[digest]

    def _name_blocks(self, sequence: Sequence, blocks: int) -> None:
        """Extend its chain of digests to so many full blocks."""
        size, digests = self.pool.block_size, sequence.digests
        parent = digests[-1] if digests else _root(sequence.salt)
        for place in range(len(digests), blocks):
            content = array("q", sequence.tokens[place * size : (place + 1) * size]).tobytes()
            parent = blake2b(parent + content, digest_size=_DIGEST_BYTES).digest()
            digests.append(parent)


def _root(salt: str) -> bytes:
    # Another personalisation than the blocks': no salt can be chosen that continues somebody else's chain.
    return blake2b(salt.encode(), digest_size=_DIGEST_BYTES, person=b"cache salt").digest()
