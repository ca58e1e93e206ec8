"""Random weights in each stored format, for the kernel tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.formats import BLOCK, BLOCK_BYTES, Format


def random_rows(rng: np.random.Generator, kind: Format, rows: int, columns: int) -> NDArray[np.uint8]:
    """uint8 [rows, bytes per row]; scales of both signs, from subnormal to large."""
    if kind is Format.F32:
        return rng.standard_normal((rows, columns)).astype(np.float32).view(np.uint8)
    raw = rng.integers(0, 256, (rows, columns // BLOCK, BLOCK_BYTES[kind]), dtype=np.uint8)
    halves = 4 if kind is Format.Q4_1 else 2
    scales = rng.standard_normal((rows, columns // BLOCK, halves // 2)) * 10.0 ** rng.integers(-7, 1, (rows, 1, 1))
    raw[:, :, :halves] = scales.astype(np.float16).view(np.uint8)
    return raw.reshape(rows, -1)
