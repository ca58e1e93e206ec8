"""How full the KV cache is going to be: answers end at different times, and most end long before max_tokens.

Pure arithmetic over sequences and the pool, as LightLLM's router does it: admitting by the future peak packs more
requests than reserving every max_tokens, and preempts less than looking at the present only.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Set

from topmast_server.engine.kv import BlockPool
from topmast_server.engine.sequence import Sequence

_WINDOW = 256  # answers that count as recent
_ENOUGH = 8  # with fewer that got as far, there is no precedent:
_UNKNOWN_TOKENS = 512  # then an answer is expected to be so long, or to double
_QUANTILE = 0.8


class AnswerLengths:
    """The lengths of recent answers, and what they say about one that is under way."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []

    def observe(self, tokens: int) -> None:
        """An answer has ended, in whatever way, after so many tokens."""
        self._recent.append(tokens)
        insort(self._sorted, tokens)
        if len(self._recent) > _WINDOW:
            oldest = self._recent.popleft()
            del self._sorted[bisect_right(self._sorted, oldest) - 1]

    def expected(self, made: int, most: int) -> int:
        """Tokens in all of an answer with `made` tokens and at most `most`: as 80 % of those that got as far ended."""
        first = bisect_right(self._sorted, made)
        longer = len(self._sorted) - first
        if longer < _ENOUGH:
            return min(most, max(_UNKNOWN_TOKENS, 2 * made))
        return min(most, self._sorted[first + int(_QUANTILE * longer)])


def future_peak(
    pool: BlockPool,
    lengths: AnswerLengths,
    running: list[Sequence],
    new: Sequence,
    hits: list[int],
    freed: Set[int] = frozenset(),
) -> int:
    """Blocks in use at the worst moment from now on if `new` joins, `hits` being the blocks it finds in the cache, and
    the owners of the blocks in `freed`, who are not `running`, have left.

    Blocks that several share count once, and leave with nobody; every sequence may have begun one block more than its
    tokens fill: the estimate errs on the safe side.
    """
    size = pool.block_size
    # (tokens still to come, tokens now, blocks held, blocks that leave with it), in the order in which they finish
    futures = []
    for one in running:
        made, its_held = one.made, len(one.blocks)
        left = lengths.expected(made, one.max_tokens) - made
        futures.append((left, len(one.tokens), its_held, its_held - pool.shared_head(one.blocks)))
    fresh_hits = pool.count_free(hits) + len(freed & set(hits))
    new_left = lengths.expected(new.made, new.max_tokens) - new.made
    futures.append((new_left, len(new.tokens), len(hits), fresh_hits))
    futures.sort()
    in_use = pool.used - len(freed) + fresh_hits
    alive, tokens, held = len(futures), sum(f[1] for f in futures), sum(f[2] for f in futures)
    peak = in_use
    for left, its_tokens, its_held, private in futures:
        # The last token of an answer is never computed. The sum of rounded-up quotients is at most this quotient.
        grown = (tokens + alive * (left - 1 + size - 1)) // size - held
        peak = max(peak, in_use + grown)
        alive, tokens, held, in_use = alive - 1, tokens - its_tokens, held - its_held, in_use - private
    return peak
