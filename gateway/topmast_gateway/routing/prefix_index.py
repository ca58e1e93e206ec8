"""Which pod was last sent which beginnings of prompts, so that what follows them can go there again.

An estimate of the engines' caches, bounded like them, least recently used first out. It belongs to this process: two
gateways have two, and agree through the hash of a conversation instead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

MOST_BLOCKS_PER_POD = 16_384  # a million tokens of text, and about 3 MiB of this process
_UNTOLD_BLOCKS = 4096  # for a pod whose cache's size is not known


class PrefixIndex:
    """Digests by pod. A pod that restarts has another `life` and an empty cache."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, OrderedDict[bytes, None]]] = {}

    def depth(self, uid: str, life: str, blocks: Sequence[bytes]) -> int:
        """How many leading blocks of a chain the pod should still have."""
        known = self._of(uid, life)
        low, high = 0, len(blocks)
        # What leaves first is always a tail (see `sent`), so a known block means that all before it are known.
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if blocks[middle - 1] in known else (low, middle - 1)
        return low

    def sent(self, uid: str, life: str, blocks: Sequence[bytes], most: int = 0) -> None:
        """The pod gets a prompt with this chain; it has room for `most` blocks, 0 if that is not known."""
        known = self._of(uid, life)
        for block in reversed(blocks):  # the head last: it is the last to leave
            known[block] = None
            known.move_to_end(block)
        bound = min(most or _UNTOLD_BLOCKS, MOST_BLOCKS_PER_POD)
        while len(known) > bound:
            known.popitem(last=False)

    def forget(self, present: Iterable[str]) -> None:
        """Only these pods are left."""
        kept = set(present)
        for uid in [uid for uid in self._known if uid not in kept]:
            del self._known[uid]

    def size(self, uid: str) -> int:
        """Blocks known of a pod."""
        return len(self._known[uid][1]) if uid in self._known else 0

    def _of(self, uid: str, life: str) -> OrderedDict[bytes, None]:
        seen, known = self._known.get(uid, ("", None))
        if known is None or seen != life:
            known = OrderedDict()
            self._known[uid] = (life, known)
        return known
