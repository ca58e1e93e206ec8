"""What every twin does first with a row of logits: forbidden ids and NaN become -inf, flags say what was found.

The arithmetic follows `topmast_kernels.gpu.lines` and `.scaling` step by step, so that both agree on ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from topmast_kernels.twin.noise import LOG2_E

NAN_FLAG = 1  # a logit was NaN, allowed or not; it counted as -inf
NOTHING_FLAG = 2  # nothing was allowed: the token is the fallback
INFINITE_FLAG = 4  # an allowed logit was +inf; those that were share the mass
COLDEST = 1e-5  # below it a row takes its greatest logit
LN_2 = 0.6931471805599453
_HOTTEST = 1e30
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Rows:
    """`x` float32 [rows, vocabulary] without NaN, its maximum `peak` [rows], and int32 `flags` [rows]."""

    x: Tensor
    peak: Tensor
    flags: Tensor


def read(logits: Tensor, allowed: Tensor | None = None, vocabulary: int | None = None) -> Rows:
    """[rows, width] logits of any float type as `Rows`. `allowed`: int32 [rows, words], bit set = allowed."""
    if logits.ndim != 2:
        raise ValueError(f"logits have the shape {list(logits.shape)}; give [rows, V]")
    vocabulary = logits.shape[1] if vocabulary is None else vocabulary
    if not 1 <= vocabulary <= logits.shape[1]:
        raise ValueError(f"vocabulary={vocabulary} does not fit rows of {logits.shape[1]} logits")
    x = logits[:, :vocabulary].float()
    peak = x.amax(-1)  # a NaN wins, so that one pass finds it
    nan = peak.isnan()
    if bool(nan.any()):
        x = x.masked_fill(x.isnan(), float("-inf"))
    if allowed is not None:
        x = x.masked_fill(~unpack(allowed, vocabulary), float("-inf"))
    if allowed is not None or bool(nan.any()):
        peak = x.amax(-1)
    flags = nan * NAN_FLAG | (peak == float("-inf")) * NOTHING_FLAG | (peak == float("inf")) * INFINITE_FLAG
    return Rows(x, peak, flags.int())


def check_fallback(fallback: int, vocabulary: int) -> None:
    """The token for rows in which nothing is allowed exists."""
    if not 0 <= fallback < vocabulary:
        raise ValueError(f"fallback={fallback} is no token of {vocabulary}; give the end-of-sequence token's id")


def unpack(allowed: Tensor, vocabulary: int) -> Tensor:
    """bool [rows, vocabulary] from int32 [rows, words], lowest bit first; beyond the words everything is forbidden."""
    bits = (allowed[:, :, None] >> torch.arange(32, dtype=torch.int32, device=allowed.device)) & 1
    bits = bits.flatten(1)[:, :vocabulary].bool()
    return torch.nn.functional.pad(bits, (0, vocabulary - bits.shape[1]))


def scales(temperature: Tensor | None, rows: Rows) -> tuple[Tensor, Tensor]:
    """(log2(e) / T, whether greedy), each [rows]; None is T = 1, which also gives greedy rows' log-probabilities."""
    if temperature is None:
        return torch.full_like(rows.peak, LOG2_E), torch.zeros_like(rows.peak, dtype=torch.bool)
    greedy = ~(temperature >= COLDEST)
    return LOG2_E / torch.where(greedy, 1.0, temperature.clamp(max=_HOTTEST)), greedy


def scaled_gap(x: Tensor, peak: Tensor, scale: Tensor) -> Tensor:
    """log2 of the weight of `x` <= `peak` relative to the peak's own; +inf counts as the largest number."""
    return (x.clamp(max=_LARGEST) - peak.clamp(-_LARGEST, _LARGEST)) * scale


def weights(rows: Rows, scale: Tensor) -> Tensor:
    """exp((x - peak) / T), float32 [rows, vocabulary]; a row of nothing is all 0."""
    return scaled_gap(rows.x, rows.peak[:, None], scale[:, None]).exp2()
