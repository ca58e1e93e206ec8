"""Norm, rotation and gate in float64 NumPy; and how far a rounded result may be off."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
# Half the spacing of numbers relative to their size; a little more, because the fp32 value may lie beside a tie.
HALF_STEP = {torch.float32: 1e-6, torch.float16: 2.0**-11 * 1.01, torch.bfloat16: 2.0**-8 * 1.01}


def wide(x: Tensor) -> Array:
    return x.to(torch.float64).numpy()


def assert_rounded(found: Tensor, expected: Array, scale: Array | float = 0.0) -> None:
    """`found` is `expected` rounded once; `scale` is the size of what was summed up, where terms cancel."""
    allowed = (
        HALF_STEP[found.dtype] * np.abs(expected) + 2e-6 * scale + (6e-8 if found.dtype == torch.float16 else 1e-37)
    )
    wrong = ~(np.abs(wide(found) - expected) <= allowed)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} are off, the first at {np.argwhere(wrong)[0]}"


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


def rotate(x: Array, table: Array) -> Array:
    """x: [tokens, heads, dim]; table: [tokens, dim], cosines then sines."""
    half = x.shape[-1] // 2
    low, high, cos, sin = x[..., :half], x[..., half:], table[:, None, :half], table[:, None, half:]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def silu_mul(gate: Array, up: Array) -> Array:
    return gate / (1 + np.exp(-gate)) * up
