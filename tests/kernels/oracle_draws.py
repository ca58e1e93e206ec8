"""The noise and the draw in three levels, in float64 NumPy and for many seeds of one row at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from oracle_vocabulary import gaps

from topmast_kernels.partition import LINE, block_count

Words = NDArray[np.uint64]
TOKEN, BLOCK, LINES = 0, 1, 2
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: list[Words], key: list[Words]) -> list[Words]:
    """Philox4x32-10: the four words for counters and keys of 32 bits in uint64."""
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        left, right = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (right >> _HALF) ^ b ^ low, right & _LOW, (left >> _HALF) ^ d ^ high, left & _LOW
        low, high = (low + np.uint64(0x9E3779B9)) & _LOW, (high + np.uint64(0xBB67AE85)) & _LOW
    return [a, b, c, d]


def words(
    seeds: NDArray[np.int64], positions: NDArray[np.int64], stream: int, ids: NDArray[np.int64]
) -> tuple[Words, Words]:
    """The first two words for each seed, position and id; shapes broadcast."""
    seed = seeds.astype(np.uint64)
    zero = np.zeros_like(ids.astype(np.uint64))
    counter = [positions.astype(np.uint64) & _LOW, ids.astype(np.uint64), zero + np.uint64(stream), zero]
    first, second, _, _ = philox(counter, [seed & _LOW, seed >> _HALF])
    return first, second


def exponential(first: Words, second: Words) -> NDArray[np.float64]:
    wide = (first.astype(np.float64) + (second.astype(np.float64) + 0.5) / 2**32) / 2**32
    return -np.log1p(-np.where(first < 4096, wide, (first.astype(np.float64) + 0.5) / 2**32))


def gumbel(
    seeds: NDArray[np.int64], positions: NDArray[np.int64], stream: int, ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    return -np.log(exponential(*words(seeds, positions, stream, ids)))


def draw(
    values: NDArray[np.float32], temperature: float, block: int, seeds: NDArray[np.int64], positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The token for each seed and position; values [V] in which something is allowed. Block, then line, then token."""
    vocabulary = len(values)
    blocks = block_count(vocabulary, block)
    lines = blocks * block // LINE
    weights = np.full(lines * LINE, -np.inf)
    weights[:vocabulary] = gaps(values) / temperature
    with np.errstate(divide="ignore"):
        of_line = np.log(np.exp(weights.reshape(lines, LINE)).sum(1))
        of_block = np.log(np.exp(of_line.reshape(-1, blocks)).sum(0))
    seeds, positions = seeds[:, None], positions[:, None]
    chosen = (of_block + gumbel(seeds, positions, BLOCK, np.arange(blocks)[None])).argmax(1)
    ids = chosen[:, None] + np.arange(lines // blocks) * blocks
    line = ids[np.arange(len(ids)), (of_line[ids] + gumbel(seeds, positions, LINES, ids)).argmax(1)]
    ids = line[:, None] * LINE + np.arange(LINE)
    token: NDArray[np.int64] = ids[np.arange(len(ids)), (weights[ids] + gumbel(seeds, positions, TOKEN, ids)).argmax(1)]
    return token
