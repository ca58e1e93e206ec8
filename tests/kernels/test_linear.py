"""Compiled linear layers: exact products with the stored weights, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
from blocks import random_rows
from numpy.typing import NDArray

from topmast_kernels.cpu import linear
from topmast_kernels.cpu.formats import Format, dequantise


def product(x: NDArray[np.float32], raws: list[NDArray[np.uint8]], kinds: list[Format]) -> NDArray[np.float32]:
    lines = [(raw.ctypes.data, kind, len(raw)) for raw, kind in zip(raws, kinds, strict=True)]
    out = np.full((len(x), sum(len(raw) for raw in raws)), np.nan, np.float32)
    linear.linear(x, linear.matrix_table(lines, x.shape[1]), out)
    return out


@pytest.mark.parametrize("kind", list(Format))
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9, 33])
@pytest.mark.parametrize("outputs", [16, 50, 192])
def test_product_equals_float64_to_float32_rounding(kind: Format, rows: int, outputs: int) -> None:
    rng = np.random.default_rng(outputs * 100 + rows)
    x = rng.standard_normal((rows, 576)).astype(np.float32)
    raw = random_rows(rng, kind, outputs, 576)
    weights = dequantise(raw, kind, 576).astype(np.float64)
    expected = x.astype(np.float64) @ weights.T
    scale = np.abs(x.astype(np.float64)) @ np.abs(weights.T)  # the size of what is summed up
    assert np.max(np.abs(product(x, [raw], [kind]) - expected) / scale) < 1e-6


def test_matrices_of_different_formats_share_one_input() -> None:
    rng = np.random.default_rng(5)
    kinds = [Format.Q4_1, Format.Q8_0, Format.Q4_0]
    raws = [random_rows(rng, kind, rows, 64) for kind, rows in zip(kinds, (48, 17, 30), strict=True)]
    x = rng.standard_normal((3, 64)).astype(np.float32)
    apart = [product(x, [raw], [kind]) for raw, kind in zip(raws, kinds, strict=True)]
    assert np.array_equal(product(x, raws, kinds), np.concatenate(apart, axis=1))


@pytest.mark.parametrize("columns", [32, 96, 544])
@pytest.mark.parametrize("outputs", [17, 47, 48, 49, 100])
def test_product_holds_where_nothing_divides_evenly(columns: int, outputs: int) -> None:
    rng = np.random.default_rng(columns + outputs)
    for kind in Format:
        raw = random_rows(rng, kind, outputs, columns)
        x = rng.standard_normal((15, columns)).astype(np.float32)
        expected = x.astype(np.float64) @ dequantise(raw, kind, columns).astype(np.float64).T
        scale = np.abs(x) @ np.abs(dequantise(raw, kind, columns)).T
        assert np.all(np.abs(product(x, [raw], [kind]) - expected) <= 1e-6 * scale), kind


@pytest.mark.parametrize("kind", list(Format))
def test_bits_of_a_row_do_not_depend_on_the_batch(kind: Format) -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((40, 576)).astype(np.float32)
    raw = random_rows(rng, kind, 64, 576)
    together = product(x, [raw], [kind])
    for rows in (1, 2, 3, 4, 5, 7, 8, 9, 15, 31):
        assert np.array_equal(product(x[-rows:], [raw], [kind]), together[-rows:]), rows


def test_a_nan_row_stays_alone() -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((6, 64)).astype(np.float32)
    x[2, 5] = np.nan
    out = product(x, [random_rows(rng, Format.Q4_1, 32, 64)], [Format.Q4_1])
    assert np.isnan(out[2]).all()
    assert np.isfinite(np.delete(out, 2, axis=0)).all()
