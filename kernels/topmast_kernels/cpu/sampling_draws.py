"""Noise, and the token that wins with it: the draws of topmast_kernels.twin in float64, for compiled code.

Noise is Philox4x32-10 with the request's 64-bit seed as key and (position, id, stream, 0) as counter, one stream each
for tokens, blocks and lines. It knows no row, no batch and no call.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.jit import kernel
from topmast_kernels.cpu.sampling_lines import LINE, bits_below, from_key, order_key, weight

_TOKENS, _BLOCKS, _LINES = np.int64(0), np.int64(1), np.int64(2)  # streams, as in topmast_kernels.twin.noise
_EXTENDED = 4096  # first words below it get the second word's resolution


@kernel()
def philox(seed: int, position: int, stream: np.int64, number: int) -> tuple[np.uint64, np.uint64]:
    """The first two words for one counter, each below 2**32. Of position and number 32 bits count."""
    low_word, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a, b, c, d = np.uint64(position) & low_word, np.uint64(number) & low_word, np.uint64(stream), np.uint64(0)
    low, high = np.uint64(seed) & low_word, np.uint64(seed) >> half
    for _ in range(10):
        left, right = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b = (right >> half) ^ b ^ low, right & low_word
        c, d = (left >> half) ^ d ^ high, left & low_word
        low, high = (low + np.uint64(0x9E3779B9)) & low_word, (high + np.uint64(0xBB67AE85)) & low_word
    return a, b


@kernel()
def noise(first: np.uint64, second: np.uint64) -> float:
    """-log2 of the exponential -ln(1 - u), u = (first + 0.5) / 2**32; where u is tiny the second word extends it."""
    fraction = 0.5
    if first < np.uint64(_EXTENDED):
        fraction = (np.float64(second) + 0.5) * 2.0**-32
    return -math.log2(-math.log1p(-(np.float64(first) + fraction) * 2.0**-32))


@kernel()
def gumbel(seed: int, position: int, stream: np.int64, number: int) -> float:
    """The noise of one counter, in bits, to be added to log2 weights: the greatest sum is a draw from them."""
    first, second = philox(seed, position, stream, number)
    return noise(first, second)


@kernel()
def draw_in_levels(
    x: NDArray[np.float32],
    peak: float,
    scale: float,
    masses: NDArray[np.float64],
    blocks: int,
    seed: int,
    position: int,
) -> int:
    """A token of x [lines, 64] with probability proportional to its weight: first a block, then a line, then a token.

    masses [lines] as `sampling_lines.weigh` makes them; block b owns the lines b, b + blocks, b + 2 blocks and so on.
    """
    block, highest = 0, -np.inf
    for b in range(blocks):
        mass = 0.0
        for line in range(b, len(x), blocks):
            mass += masses[line]
        score = math.log2(mass) + gumbel(seed, position, _BLOCKS, b) if mass > 0.0 else -np.inf
        if score > highest:
            block, highest = b, score
    chosen, highest = block, -np.inf
    for line in range(block, len(x), blocks):
        mass = masses[line]
        score = math.log2(mass) + gumbel(seed, position, _LINES, line) if mass > 0.0 else -np.inf
        if score > highest:
            chosen, highest = line, score
    token, highest = chosen * LINE, -np.inf
    for i in range(LINE):
        score = bits_below(x[chosen, i], peak, scale) + gumbel(seed, position, _TOKENS, chosen * LINE + i)
        if score > highest:
            token, highest = chosen * LINE + i, score
    return token


@kernel()
def draw_kept(
    x: NDArray[np.float32],
    best: NDArray[np.int32],
    peak: float,
    scale: float,
    key: int,
    last: int,
    floor: float,
    seed: int,
    position: int,
) -> tuple[int, int]:
    """(token, number of tokens to draw from): the tokens of x [lines, 64] that (key, last) and `floor` leave.

    Each has the noise of its own id. `floor`: the least bits that pass min-p. best [lines]: the lines' greatest keys.
    """
    words, hopeful = np.empty(LINE), np.empty(LINE, np.bool_)
    token, kept, highest, odds = np.int64(-1), 0, -np.inf, np.inf
    for line in range(len(best)):
        # The margin is for rounding: which tokens pass is said token by token.
        if best[line] >= key and bits_below(from_key(best[line]), peak, scale) >= floor - 1.0:
            start = line * LINE
            _first_words(seed, position, start, words)
            some, hopes = _look_at_line(x[line], peak, scale, key, last - start, floor, odds, words, hopeful)
            kept += some
            if hopes > 0:
                token, highest = _race(x[line], peak, scale, seed, position, start, hopeful, token, highest)
                odds = 2.0 ** (32.0 - highest) * (1.0 + 1e-9)
    return int(token), kept


@kernel()
def _first_words(seed: int, position: int, start: int, words: NDArray[np.float64]) -> None:
    """The first words of a line's tokens. This and the next two are apart because LLVM then makes vector code."""
    for i in range(LINE):
        first, _ = philox(seed, position, _TOKENS, start + i)
        words[i] = first


@kernel()
def _look_at_line(
    x: NDArray[np.float32],
    peak: float,
    scale: float,
    key: int,
    last: int,
    floor: float,
    odds: float,
    words: NDArray[np.float64],
    hopeful: NDArray[np.bool_],
) -> tuple[int, int]:
    """(kept, hopeful) numbers of tokens of a line; hopeful [64] are those that may beat a score of 32 - log2(odds).

    A token's noise is -log2 of an exponential of at least word / 2**32, so most are known to lose without a logarithm.
    """
    kept, hopes = 0, 0
    for i in range(LINE):
        own, bits = order_key(x[i]), bits_below(x[i], peak, scale)
        inside = (own > key) | ((own == key) & (i <= last))
        inside &= bits >= floor
        behind = words[i] > weight(bits) * odds
        hopeful[i] = inside & (not behind)
        kept += inside
        hopes += hopeful[i]
    return kept, hopes


@kernel()
def _race(
    x: NDArray[np.float32],
    peak: float,
    scale: float,
    seed: int,
    position: int,
    start: int,
    hopeful: NDArray[np.bool_],
    token: np.int64,
    highest: float,
) -> tuple[np.int64, float]:
    """The winner so far and its score, after the hopeful ones of a line; token -1 is none."""
    for i in range(LINE):
        if hopeful[i]:
            score = bits_below(x[i], peak, scale) + gumbel(seed, position, _TOKENS, start + i)
            if token < 0 or score > highest:
                token, highest = np.int64(start + i), score
    return token, highest
