"""Rotary position tables, as transformers computes them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from topmast_server.weights.matrix import ModelWeights


def rope_tables(weights: ModelWeights, length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cos and sin [length, head_size / 2] in float32."""
    shape = weights.shape
    exponents = np.arange(0, shape.head_size, 2, dtype=np.int64).astype(np.float32) / np.float32(shape.head_size)
    frequencies = (1.0 / np.power(np.float32(shape.rope_base), exponents)).astype(np.float32)
    if weights.rope_factors is not None:
        frequencies = frequencies / weights.rope_factors
    if shape.rope_scaling is not None:
        frequencies = _llama3(frequencies, weights)
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies[None, :].astype(np.float32)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _llama3(frequencies: NDArray[np.float32], weights: ModelWeights) -> NDArray[np.float32]:
    """Long wavelengths are stretched by `factor`, short ones kept, those between blended (Llama 3.1's rule)."""
    scaling = weights.shape.rope_scaling
    assert scaling is not None
    wavelengths = 2 * math.pi / frequencies
    low = scaling.original_context / scaling.low_frequency_factor
    high = scaling.original_context / scaling.high_frequency_factor
    spread = scaling.high_frequency_factor - scaling.low_frequency_factor
    smooth = (scaling.original_context / wavelengths - scaling.low_frequency_factor) / spread
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    stretched = np.where(wavelengths > low, frequencies / scaling.factor, blended)
    return np.where(wavelengths < high, frequencies, stretched).astype(np.float32)
