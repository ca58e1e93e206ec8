"""Paged attention against float64 NumPy, for rows of several sequences in scattered blocks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from topmast_kernels.cpu import attention

BLOCKS, SIZE = 40, 8


def expected(
    query: NDArray[np.float32], cache: NDArray[np.float32], table: NDArray[np.int32], position: int
) -> NDArray[np.float64]:
    """One row [heads, D], in float64, from keys and values laid out in order."""
    heads, width = query.shape
    keys, values = (cache[which, table].swapaxes(0, 1).reshape(cache.shape[2], -1, width) for which in (0, 1))
    out = np.empty((heads, width))
    for head in range(heads):
        mine = head * cache.shape[2] // heads
        scores = keys[mine, : position + 1].astype(np.float64) @ query[head].astype(np.float64) / np.sqrt(width)
        weights = np.exp(scores - scores.max())
        out[head] = weights / weights.sum() @ values[mine, : position + 1].astype(np.float64)
    return out


@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (4, 4), (8, 1)])
@pytest.mark.parametrize("width", [64, 48])
def test_rows_attend_to_their_own_past(heads: int, kv_heads: int, width: int) -> None:
    rng = np.random.default_rng(heads * width)
    cache = rng.standard_normal((2, BLOCKS, kv_heads, SIZE, width)).astype(np.float32)
    tables = np.stack([rng.permutation(BLOCKS)[:20] for _ in range(5)]).astype(np.int32)
    positions = np.array([0, 7, 8, 100, 159])
    query = (3 * rng.standard_normal((5, heads, width))).astype(np.float32)
    out = np.full_like(query, np.nan)
    attention.paged_attention(query, cache, tables, positions, out)
    for row in range(5):
        np.testing.assert_allclose(out[row], expected(query[row], cache, tables[row], positions[row]), atol=2e-5)
        alone = np.empty_like(query[:1])
        attention.paged_attention(query[row : row + 1], cache, tables[row : row + 1], positions[row : row + 1], alone)
        assert np.array_equal(alone[0], out[row])  # the same bits without the others


def test_stored_keys_and_values_land_in_their_slots() -> None:
    rng = np.random.default_rng(3)
    cache = np.zeros((2, BLOCKS, 2, SIZE, 16), np.float32)
    tables, positions = np.array([[4, 9], [7, 1]], np.int32), np.array([9, 3])
    key, value = rng.standard_normal((2, 2, 2, 16)).astype(np.float32)
    attention.store_kv(key, value, cache, tables, positions)
    for which, stored in ((0, key), (1, value)):
        assert np.array_equal(cache[which, 9, :, 1], stored[0])
        assert np.array_equal(cache[which, 7, :, 3], stored[1])
    assert np.count_nonzero(cache) == key.size + value.size


def test_a_poisoned_sequence_does_not_reach_its_neighbour() -> None:
    rng = np.random.default_rng(4)
    cache = rng.standard_normal((2, BLOCKS, 1, SIZE, 16)).astype(np.float32)
    cache[:, 5] = np.nan
    tables = np.array([[5, 6], [7, 8]], np.int32)
    query = rng.standard_normal((2, 2, 16)).astype(np.float32)
    out = np.empty_like(query)
    attention.paged_attention(query, cache, tables, np.array([12, 12]), out)
    assert np.isnan(out[0]).all()
    assert np.isfinite(out[1]).all()
