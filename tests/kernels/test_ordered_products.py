"""The interpreter's products: exact but for one rounding, and the same for a row wherever it stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from ordered_products import ordered_product

from topmast_kernels.gpu.common import dot


def matrix(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def test_a_product_is_the_float64_sum_rounded_once() -> None:
    a, b = matrix(32, 64, 1), matrix(64, 48, 2)
    wide = a.astype(np.longdouble) @ b.astype(np.longdouble)
    # Half a unit in the last place, and what 64 sums in float64 may lose before the rounding.
    slack = 64 * 2.0**-53 * (np.abs(a).astype(np.float64) @ np.abs(b))
    assert np.all(np.abs(ordered_product(a, b) - wide) <= np.spacing(np.abs(wide).astype(np.float32)) / 2 + slack)


@pytest.mark.parametrize("rows", [1, 16, 31])
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(rows: int) -> None:
    a, b = matrix(64, 128, 3), matrix(128, 64, 4)
    whole = ordered_product(a, b)
    assert np.array_equal(ordered_product(a[-rows:], b), whole[-rows:])
    assert np.array_equal(ordered_product(a[::-1], b), whole[::-1])
    assert np.array_equal(ordered_product(a, b[:, :rows]), whole[:, :rows])
    assert np.array_equal(ordered_product(a, np.asfortranarray(b)), whole)


def test_sums_run_from_the_first_to_the_last() -> None:
    """Any other order gives another number: 1 is lost beside 2**60, and 2**60 - 2**60 is 0."""
    big = np.float32(2.0**60)
    ones = np.ones((3, 1), np.float32)
    assert ordered_product(np.array([[big, -big, 1]], np.float32), ones) == 1
    assert ordered_product(np.array([[1, big, -big]], np.float32), ones) == 0


@triton.jit
def _multiply(left, right, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(out + at, dot(tl.load(left + at), tl.load(right + at), tl.full([SIZE, SIZE], 3.0, tl.float32)))


@pytest.mark.old_triton
def test_kernels_multiply_in_this_order() -> None:
    left, right = (torch.from_numpy(matrix(32, 32, seed)).bfloat16() for seed in (5, 6))
    out = torch.empty(32, 32)
    _multiply[(1,)](left, right, out, SIZE=32)
    assert np.array_equal(out.numpy(), ordered_product(left.float().numpy(), right.float().numpy()) + np.float32(3))


def test_operands_that_were_not_widened_are_refused() -> None:
    with pytest.raises(TypeError, match=r"multiply with topmast_kernels\.gpu\.common\.dot"):
        ordered_product(matrix(2, 2, 1).astype(np.float16), matrix(2, 2, 2))
