"""Compiled linear layers on packed weights: exact or with x rounded to bytes, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
from blocks import random_rows
from numpy.typing import NDArray

from topmast_kernels.cpu.formats import BLOCK, Format, dequantise
from topmast_kernels.cpu.linear import linear
from topmast_kernels.cpu.packing import pack
from topmast_kernels.cpu.table import matrix_table

QUANTISED = [kind for kind in Format if kind is not Format.F32]


def product(
    x: NDArray[np.float32], raws: list[NDArray[np.uint8]], kinds: list[Format], *, exact: bool, threads: int = 2
) -> NDArray[np.float32]:
    packed = [pack(raw, kind, x.shape[1]) for raw, kind in zip(raws, kinds, strict=True)]
    out = np.full((len(x), sum(len(raw) for raw in raws)), np.nan, np.float32)
    linear(x, matrix_table(packed), exact, threads, out)
    return out


def rounded(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """x as the kernels round it: 127 steps to the greatest of each block, to nearest even."""
    blocks = x.reshape(len(x), -1, BLOCK)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        steps = np.where(largest < 2.0**-120, 0, np.rint(blocks * (np.float32(127) / largest)))
    return (steps * (largest * np.float32(1 / 127)).astype(np.float64)).reshape(x.shape)


def assert_near(found: NDArray[np.float32], x: NDArray[np.float64], weights: NDArray[np.float32]) -> None:
    """The float64 product, up to what float32 sums may lose: 1e-6 of the size of what is summed up."""
    expected, scale = x @ weights.T.astype(np.float64), np.abs(x) @ np.abs(weights.T.astype(np.float64))
    assert np.all(np.abs(found - expected) <= 1e-6 * scale)


@pytest.mark.parametrize("kind", list(Format))
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9, 33])
@pytest.mark.parametrize("outputs", [16, 50, 192])
def test_exact_product_equals_float64_to_float32_rounding(kind: Format, rows: int, outputs: int) -> None:
    rng = np.random.default_rng(outputs * 100 + rows)
    x = rng.standard_normal((rows, 576)).astype(np.float32)
    raw = random_rows(rng, kind, outputs, 576)
    assert_near(product(x, [raw], [kind], exact=True), x.astype(np.float64), dequantise(raw, kind, 576))


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9, 33])
@pytest.mark.parametrize("outputs", [16, 50, 192])
def test_rounded_product_is_that_of_x_in_bytes(kind: Format, rows: int, outputs: int) -> None:
    rng = np.random.default_rng(outputs * 100 + rows)
    x = (rng.standard_normal((rows, 576)) * 10.0 ** rng.integers(-30, 30, (rows, 1))).astype(np.float32)
    raw = random_rows(rng, kind, outputs, 576)
    found, weights = product(x, [raw], [kind], exact=False), dequantise(raw, kind, 576).astype(np.float64)
    expected = rounded(x) @ weights.T
    # Q4_1 sums scale * nibble and the minimum apart, and these may be larger than the weight that they make.
    halves = raw.reshape(outputs, -1, 20)[:, :, :4].copy().view(np.float16) if kind is Format.Q4_1 else None
    sizes = np.abs(weights)
    if halves is not None:
        sizes = np.repeat(np.abs(halves.astype(np.float64)) @ [15, 1], BLOCK, axis=1)
    assert np.all(np.abs(found - expected) <= 1e-6 * (np.abs(rounded(x)) @ sizes.T))


def test_rounding_costs_half_a_percent_of_a_random_product() -> None:
    rng = np.random.default_rng(11)
    x, raw = rng.standard_normal((16, 576)).astype(np.float32), random_rows(rng, Format.Q8_0, 192, 576)
    exact, rough = (product(x, [raw], [Format.Q8_0], exact=exact) for exact in (True, False))
    error = np.sqrt(np.mean((rough - exact) ** 2) / np.mean(exact**2))
    assert 0.002 < error < 0.008


@pytest.mark.parametrize("exact", [True, False])
def test_matrices_of_different_formats_share_one_input(exact: bool) -> None:
    rng = np.random.default_rng(5)
    kinds = [Format.Q4_1, Format.F32, Format.Q8_0, Format.Q4_0]
    raws = [random_rows(rng, kind, rows, 64) for kind, rows in zip(kinds, (48, 16, 17, 30), strict=True)]
    x = rng.standard_normal((3, 64)).astype(np.float32)
    apart = [product(x, [raw], [kind], exact=exact) for raw, kind in zip(raws, kinds, strict=True)]
    assert np.array_equal(product(x, raws, kinds, exact=exact), np.concatenate(apart, axis=1))
    assert np.array_equal(apart[1], product(x, [raws[1]], [Format.F32], exact=True))  # F32 is never rounded


@pytest.mark.parametrize("columns", [32, 96, 544])
@pytest.mark.parametrize("outputs", [17, 47, 48, 49, 100])
def test_product_holds_where_nothing_divides_evenly(columns: int, outputs: int) -> None:
    rng = np.random.default_rng(columns + outputs)
    for kind in Format:
        raw = random_rows(rng, kind, outputs, columns)
        x = rng.standard_normal((15, columns)).astype(np.float32)
        for exact in (True, False):
            values = x.astype(np.float64) if exact or kind is Format.F32 else rounded(x)
            found, weights = product(x, [raw], [kind], exact=exact), dequantise(raw, kind, columns)
            expected, scale = values @ weights.T.astype(np.float64), np.abs(values) @ np.abs(weights.T)
            assert np.all(np.abs(found - expected) <= 1e-5 * scale.max()), (kind, exact)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("kind", list(Format))
def test_bits_of_a_row_do_not_depend_on_the_batch_or_the_threads(kind: Format, exact: bool) -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((40, 576)).astype(np.float32)
    raw = random_rows(rng, kind, 192, 576)
    together = product(x, [raw], [kind], exact=exact)
    for rows in (1, 2, 3, 4, 5, 7, 8, 9, 15, 31):
        for threads in (1, 2):
            assert np.array_equal(product(x[-rows:], [raw], [kind], exact=exact, threads=threads), together[-rows:])


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", list(Format))
def test_what_is_no_number_stays_in_its_row(kind: Format, fault: float, exact: bool) -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((6, 64)).astype(np.float32)
    x[2, 5] = fault
    out = product(x, [random_rows(rng, kind, 32, 64)], [kind], exact=exact)
    assert not np.isfinite(out[2]).any()
    assert np.isfinite(np.delete(out, 2, axis=0)).all()


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-36, 3e38])
def test_the_smallest_and_the_largest_numbers_are_rounded_without_faults(size: float) -> None:
    x = np.full((2, 32), size, np.float32)
    raw = random_rows(np.random.default_rng(8), Format.Q8_0, 16, 32)
    raw.reshape(16, 34)[:, :2] = np.array([1e-3], np.float16).view(np.uint8)
    found = product(x, [raw], [Format.Q8_0], exact=False)
    assert np.isfinite(found).all()
    assert np.all(np.abs(found - product(x, [raw], [Format.Q8_0], exact=True)) <= 0.01 * size * 4 + 1e-35)
