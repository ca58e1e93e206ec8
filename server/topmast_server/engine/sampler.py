"""From logits to tokens: greedy, or temperature, top-k, top-p and min-p in transformers' order, then Gumbel-max.

The noise of a token depends on (seed, position, token id) alone: the same request gives the same answer whatever runs
beside it. A row with NaN, or with nothing finite, gives -1 and touches no other row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from topmast_server.messages import Sampling

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's wish: `position` is the new token's place in its sequence."""

    sampling: Sampling
    seed: int
    position: int


def sample(logits: torch.Tensor, draws: list[Draw]) -> list[int]:
    """One token per row of `logits` float32 [rows, vocabulary]; -1 where a row is not usable."""
    best = logits.max(dim=-1)  # NaN wins a maximum, so one reduction finds both
    usable = torch.isfinite(best.values).tolist()
    greedy = best.indices.tolist()
    tokens = []
    for row, draw in enumerate(draws):
        if not usable[row]:
            tokens.append(-1)
        elif draw.sampling.temperature <= 0.0:
            tokens.append(int(greedy[row]))
        else:
            tokens.append(_draw(logits[row], draw))
    return tokens


def _draw(logits: torch.Tensor, draw: Draw) -> int:
    ids, scores = candidates(logits, draw.sampling)
    return int(ids[int(np.argmax(scores + gumbel(draw.seed, draw.position, ids)))])


def candidates(logits: torch.Tensor, sampling: Sampling) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The token ids that the filters leave, and their logits / temperature. At least one is left."""
    scores = logits / max(sampling.temperature, 1e-6)
    ids: torch.Tensor | None = None
    if 0 < sampling.top_k < scores.numel():
        # Ties with the k-th stay in, as in transformers.
        ids = (scores >= scores.topk(sampling.top_k).values[-1]).nonzero()[:, 0]
        scores = scores[ids]
    if sampling.top_p < 1.0:
        kept = _nucleus(scores, sampling.top_p)
        ids, scores = kept if ids is None else ids[kept], scores[kept]
    if sampling.min_p > 0.0:
        kept = (scores >= scores.max() + float(np.log(sampling.min_p))).nonzero()[:, 0]
        ids, scores = kept if ids is None else ids[kept], scores[kept]
    if ids is None:
        return np.arange(scores.numel()), scores.numpy()
    return ids.numpy(), scores.numpy()


def _nucleus(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """The fewest most likely entries whose probabilities reach `top_p`; their indices, ascending."""
    total = scores.logsumexp(-1)
    # Sorting a whole vocabulary takes 5 ms; the nucleus is nearly always within the first few hundred.
    for size in (256, scores.numel()):
        ordered, order = scores.topk(min(size, scores.numel()))
        probabilities = (ordered - total).exp()
        before = probabilities.cumsum(-1) - probabilities
        count = max(1, int((before < top_p).sum()))
        if count < len(ordered):
            break
    return order[:count].sort().values


def gumbel(seed: int, position: int, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Standard Gumbel noise for each token id, from a counter-based hash (two rounds of splitmix's finaliser)."""
    key = _mix_one((_mix_one(seed & _MASK) + position * _GOLDEN) & _MASK)
    low, high = np.uint32(key & 0xFFFFFFFF), np.uint32(key >> 32)
    bits = _mix(ids.astype(np.uint32) * np.uint32(0x9E3779B1) ^ low)
    bits = _mix(bits ^ high)
    # 23 bits in the middle of their cells: exact in float32, never 0, never 1.
    uniform = ((bits >> np.uint32(9)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    noise: NDArray[np.float32] = -np.log(-np.log(uniform))
    return noise


def _mix(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """murmur3's 32-bit finaliser."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return bits ^ (bits >> np.uint32(16))


def _mix_one(value: int) -> int:
    """splitmix64's finaliser."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
