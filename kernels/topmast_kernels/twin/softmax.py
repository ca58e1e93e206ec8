"""Twin of `topmast_kernels.gpu.softmax`."""

from __future__ import annotations

import torch
from torch import Tensor

from topmast_kernels.twin.rows import read, scales, weights


def softmax(
    logits: Tensor,
    *,
    temperature: Tensor | None = None,
    allowed: Tensor | None = None,
    vocabulary: int | None = None,
    out: Tensor | None = None,
    flags: Tensor | None = None,
) -> Tensor:
    """Row softmax of logits / T in float32, rounded once to the dtype of `out`, by default that of the logits.

    logits: any float type [rows, width]; tokens from `vocabulary` on get 0. temperature: float32 [rows], None for 1; a
    row below 1e-5 has all of its mass on its greatest logit, of equal ones the lowest id; one of only -inf gives zeros.
    """
    rows = read(logits, allowed, vocabulary)
    scale, greedy = scales(temperature, rows)
    shares = weights(rows, scale)
    shares /= shares.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    if bool(greedy.any()):
        best = torch.zeros_like(shares).scatter_(-1, rows.x.argmax(-1, keepdim=True), 1.0)
        best *= (rows.peak > float("-inf"))[:, None]
        shares = torch.where(greedy[:, None], best, shares)
    out = torch.empty_like(logits) if out is None else out
    out[:, : rows.x.shape[1]] = shares
    out[:, rows.x.shape[1] :] = 0
    if flags is not None:
        flags.copy_(rows.flags)
    return out
