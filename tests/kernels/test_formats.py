"""Stored blocks mean exactly what package gguf says they mean."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from blocks import random_rows

from topmast_kernels.cpu.formats import Format, dequantise

TYPES = {
    Format.F32: gguf.GGMLQuantizationType.F32,
    Format.Q4_0: gguf.GGMLQuantizationType.Q4_0,
    Format.Q4_1: gguf.GGMLQuantizationType.Q4_1,
    Format.Q8_0: gguf.GGMLQuantizationType.Q8_0,
}


@pytest.mark.parametrize("kind", TYPES)
def test_dequantised_weights_equal_gguf_bit_for_bit(kind: Format) -> None:
    raw = random_rows(np.random.default_rng(1), kind, 64, 256)
    expected = gguf.dequantize(raw.view(np.float32) if kind is Format.F32 else raw, TYPES[kind])
    assert np.array_equal(dequantise(raw, kind, 256).view(np.uint32), expected.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind is not Format.F32])
def test_compiled_dequantisation_gives_the_same_bits(kind: Format) -> None:
    from topmast_kernels.cpu import linear

    raw = random_rows(np.random.default_rng(2), kind, 37, 96)
    table = linear.matrix_table([(raw.ctypes.data, kind, 37)], 96)
    out = np.full((37, 96), np.nan, np.float32)
    linear.dequantise_into(table, out)
    assert np.array_equal(out.view(np.uint32), dequantise(raw, kind, 96).view(np.uint32))
