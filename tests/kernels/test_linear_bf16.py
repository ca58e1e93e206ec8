"""Linear layers in bfloat16: exact products of rounded operands, summed up in float32, whatever the batch."""

from __future__ import annotations

import numpy as np
import pytest
from blocks import random_rows
from numpy.typing import NDArray

from topmast_kernels.cpu.formats import Format, dequantise
from topmast_kernels.cpu.jit import HAS_BF16
from topmast_kernels.cpu.linear import matrix_table
from topmast_kernels.cpu.linear_bf16 import linear_bf16

needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no AVX512-BF16")


def rounded(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The nearest bfloat16, ties to even."""
    bits = values.view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def product(x: NDArray[np.float32], raw: NDArray[np.uint8], kind: Format) -> NDArray[np.float32]:
    out = np.full((len(x), len(raw)), np.nan, np.float32)
    linear_bf16(x, matrix_table([(raw.ctypes.data, kind, len(raw))], x.shape[1]), out)
    return out


@needs_bf16
@pytest.mark.parametrize("kind", list(Format))
@pytest.mark.parametrize("columns", [32, 96, 576, 1536])
@pytest.mark.parametrize("outputs", [16, 49, 192])
def test_error_is_that_of_float32_sums(kind: Format, columns: int, outputs: int) -> None:
    rng = np.random.default_rng(outputs + columns)
    raw = random_rows(rng, kind, outputs, columns)
    weights = rounded(dequantise(raw, kind, columns))
    for rows in (1, 2, 3, 8, 15, 40):
        x = rng.standard_normal((rows, columns)).astype(np.float32)
        scale = np.abs(rounded(x)) @ np.abs(weights.T)  # the size of what is summed up
        assert np.all(np.abs(product(x, raw, kind) - rounded(x) @ weights.T) <= 1e-6 * scale), rows


@needs_bf16
@pytest.mark.parametrize("kind", list(Format))
def test_bits_of_a_row_do_not_depend_on_the_batch(kind: Format) -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((40, 576)).astype(np.float32)
    raw = random_rows(rng, kind, 64, 576)
    together = product(x, raw, kind)
    for rows in (1, 2, 3, 4, 5, 7, 8, 9, 15, 31):
        assert np.array_equal(product(x[-rows:], raw, kind), together[-rows:]), rows


@needs_bf16
def test_a_nan_row_stays_alone() -> None:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((6, 64)).astype(np.float32)
    x[2, 5] = np.nan
    out = product(x, random_rows(rng, Format.Q4_1, 32, 64), Format.Q4_1)
    assert np.isnan(out[2]).all()
    assert np.isfinite(np.delete(out, 2, axis=0)).all()
