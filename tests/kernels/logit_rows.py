"""Rows of logits that sampling kernels have been wrong about: ties, infinities, NaN, masks, large offsets, spikes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VOCABULARIES = [1, 2, 31, 32, 33, 63, 64, 65, 1000, 2047, 2048, 2049, 4096, 5000]


def special_rows(vocabulary: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """float32 [vocabulary] by what is special about it; all are finite in float16 too unless meant to be infinite."""
    rng = np.random.default_rng(seed)
    body = rng.standard_normal(vocabulary)
    edges = [0, vocabulary - 1, min(63, vocabulary - 1), min(64, vocabulary - 1), vocabulary // 2]
    rows = {f"normal, deviation {size}": body * size for size in (0.1, 1.0, 5.0, 20.0)}
    spikes = body * 2.5
    spikes[rng.integers(0, vocabulary, min(8, vocabulary))] += rng.uniform(10, 20, min(8, vocabulary))
    rows |= {
        "like a language model's": spikes,
        "ascending": np.sort(body * 3),
        "descending": np.sort(body * 3)[::-1],
        "all equal": np.full(vocabulary, 1.5),
        "all zero of both signs": np.where(rng.random(vocabulary) < 0.5, -0.0, 0.0),
        "two values": np.where(rng.random(vocabulary) < 0.5, 2.0, -1.0),
        "coarse": np.round(body * 2) / 2,
        "around 1e4": body + 1e4,
        "around -1e4": body - 1e4,
        "around 6e4": body * 100 + 6e4,
        "half forbidden": np.where(rng.random(vocabulary) < 0.5, -np.inf, body),
        "nearly all forbidden": np.where(np.arange(vocabulary) == vocabulary // 3, body, -np.inf),
        "all forbidden": np.full(vocabulary, -np.inf),
        "all NaN": np.full(vocabulary, np.nan),
        "one +inf": np.where(np.arange(vocabulary) == vocabulary // 2, np.inf, body),
        "some +inf": np.where(np.arange(vocabulary) % 3 == 0, np.inf, body),
        "NaN, +inf and -inf": np.select(
            [np.arange(vocabulary) % 5 == at for at in range(3)], [np.nan, np.inf, -np.inf], body
        ),
    }
    for edge in dict.fromkeys(edges):
        rows[f"NaN at {edge}"] = np.where(np.arange(vocabulary) == edge, np.nan, body)
        rows[f"only {edge}"] = np.where(np.arange(vocabulary) == edge, 0.25, -np.inf)
    return {name: row.astype(np.float32) for name, row in rows.items()}


def poisoned(rows: NDArray[np.float32], dtype: torch.dtype, padding: int = 0, gap: int = 0) -> Tensor:
    """[rows, vocabulary + padding] with a row stride of `gap` more; all that is no logit is NaN or large."""
    count, vocabulary = rows.shape
    buffer = torch.full((count, vocabulary + padding + gap), float("nan"), dtype=dtype)
    buffer[:, vocabulary::2] = 1000.0
    buffer[:, :vocabulary] = torch.from_numpy(rows).to(dtype)
    return buffer[:, : vocabulary + padding]


def random_mask(rows: int, vocabulary: int, seed: int, words: int | None = None, gap: int = 0) -> Tensor:
    """int32 [rows, words] of random bits, with a row stride of `gap` more; `words` may be fewer than the row needs."""
    rng = np.random.default_rng(seed)
    words = -(-vocabulary // 32) if words is None else words
    bits = rng.integers(-(2**31), 2**31, (rows, words + gap), dtype=np.int64).astype(np.int32)
    return torch.from_numpy(bits)[:, :words]
