"""The weight formats that the kernels read in place, bit for bit as GGUF stores them, and their NumPy meaning.

A row of K weights is K/32 blocks, one after another. The NumPy twin here is the oracle of the compiled kernels.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

BLOCK = 32  # weights per block in all three quantised formats


class Format(IntEnum):
    """How one row of weights lies in memory. The numbers travel into compiled kernels."""

    F32 = 0  # plain float32
    Q4_0 = 1  # fp16 scale, 16 bytes of nibbles: weight = (nibble - 8) * scale; low nibbles are the first 16
    Q4_1 = 2  # fp16 scale, fp16 minimum, 16 bytes of nibbles: weight = nibble * scale + minimum
    Q8_0 = 3  # fp16 scale, 32 int8: weight = int8 * scale


BLOCK_BYTES = {Format.F32: BLOCK * 4, Format.Q4_0: 18, Format.Q4_1: 20, Format.Q8_0: 34}


def row_bytes(kind: Format, columns: int) -> int:
    """Bytes of one row of `columns` weights; `columns` is a multiple of 32 unless the format is F32."""
    if kind is Format.F32:
        return columns * 4
    return columns // BLOCK * BLOCK_BYTES[kind]


def dequantise(raw: NDArray[np.uint8], kind: Format, columns: int) -> NDArray[np.float32]:
    """The float32 weights [rows, columns] of `raw` [rows, row_bytes]: the same bits as package `gguf` gives."""
    if kind is Format.F32:
        return np.ascontiguousarray(raw).view(np.float32).reshape(-1, columns)
    blocks = np.ascontiguousarray(raw).reshape(-1, BLOCK_BYTES[kind])
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    if kind is Format.Q8_0:
        return (scale * blocks[:, 2:].view(np.int8).astype(np.float32)).reshape(-1, columns)
    packed = blocks[:, -16:]
    nibbles = np.concatenate([packed & 15, packed >> 4], axis=1)
    if kind is Format.Q4_0:
        return (scale * (nibbles.astype(np.int8) - 8).astype(np.float32)).reshape(-1, columns)
    minimum = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    return (scale * nibbles.astype(np.float32) + minimum).reshape(-1, columns)
