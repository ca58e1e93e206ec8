"""Attention of single rows over a paged KV cache, with grouped query heads. float32 throughout.

A row is one token of one sequence, in prefill or decode: it attends to positions 0..its own of its sequence's blocks.
The sum runs over positions in order, so a row's bits do not depend on the batch. Twin: tests' float64 NumPy, and
torch's scaled_dot_product_attention in the model.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.jit import kernel

KEY, VALUE = 0, 1


@kernel()
def _attend(
    query: NDArray[np.float32],
    cache: NDArray[np.float32],
    table: NDArray[np.int32],
    position: int,
    head: int,
    out: NDArray[np.float32],
) -> None:
    """One query head [D] over one KV head of `cache` [2, blocks, kv_heads, block_size, D]."""
    size, width = cache.shape[3], cache.shape[4]
    length = position + 1
    scores = np.empty(length, np.float32)
    scale = np.float32(1.0 / np.sqrt(width))
    best = np.float32(-np.inf)
    for start in range(0, length, size):
        keys = cache[KEY, table[start // size], head]
        for j in range(min(size, length - start)):
            score = np.float32(0.0)
            for d in range(width):
                score += query[d] * keys[j, d]
            score *= scale
            scores[start + j] = score
            if not score <= best:  # a NaN becomes the maximum, so that it stays visible in the answer
                best = score
    total = np.float32(0.0)
    for d in range(width):
        out[d] = 0.0
    for start in range(0, length, size):
        values = cache[VALUE, table[start // size], head]
        for j in range(min(size, length - start)):
            weight = np.exp(scores[start + j] - best)
            total += weight
            for d in range(width):
                out[d] += weight * values[j, d]
    for d in range(width):
        out[d] /= total


@kernel(parallel=True)
def paged_attention(
    query: NDArray[np.float32],
    cache: NDArray[np.float32],
    tables: NDArray[np.int32],
    positions: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """query, out [M, heads, D]; cache [2, blocks, kv_heads, block_size, D]; tables [M, n] block ids; positions [M]."""
    rows, heads = query.shape[0], query.shape[1]
    group = heads // cache.shape[2]
    for i in numba.prange(rows * heads):
        row, head = i // heads, i % heads
        _attend(query[row, head], cache, tables[row], positions[row], head // group, out[row, head])


@kernel()
def store_kv(
    key: NDArray[np.float32],
    value: NDArray[np.float32],
    cache: NDArray[np.float32],
    tables: NDArray[np.int32],
    positions: NDArray[np.int64],
) -> None:
    """Write key and value [M, kv_heads, D] of each row to its place in `cache`."""
    size = cache.shape[3]
    for row in range(key.shape[0]):
        block, slot = tables[row, positions[row] // size], positions[row] % size
        for head in range(key.shape[1]):
            for d in range(key.shape[2]):
                cache[KEY, block, head, slot, d] = key[row, head, d]
                cache[VALUE, block, head, slot, d] = value[row, head, d]
