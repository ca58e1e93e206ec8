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


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rows", [16, 37, 64])
def test_packed_rows_can_be_taken_out_again(kind: Format, rows: int) -> None:
    from topmast_kernels.cpu.packing import pack, packed_bytes

    rng = np.random.default_rng(rows)
    raw = random_rows(rng, kind, rows, 96)
    memory = np.full(packed_bytes(kind, rows, 96), 0xAA, np.uint8)
    ids = np.array([rows - 1, 0, rows // 2, 0])
    for packed in (pack(raw, kind, 96), pack(raw, kind, 96, memory)):
        for wanted in (np.arange(rows), ids):
            taken = packed.take(wanted)
            assert np.array_equal(taken.view(np.uint32), dequantise(raw, kind, 96)[wanted].view(np.uint32))
    assert np.shares_memory(packed.data, memory)
