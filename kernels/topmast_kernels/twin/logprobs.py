"""Twin of `topmast_kernels.gpu.logprobs`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from topmast_kernels.twin.rows import LN_2, read, scaled_gap, scales, weights


class Logprobs(NamedTuple):
    """Natural logarithms; in rows where nothing is allowed all are -inf."""

    logprobs: Tensor  # float32 [rows], of the given token
    ranks: Tensor  # int32 [rows], 1 for the best
    lse: Tensor  # float32 [rows], log-sum-exp of logits / T
    flags: Tensor  # int32 [rows]: 1 NaN seen, 2 nothing allowed, 4 +inf seen
    top_ids: Tensor  # int32 [rows, top_n], -1 where fewer are allowed
    top_logprobs: Tensor  # float32 [rows, top_n]


def logprobs(
    logits: Tensor,
    tokens: Tensor,
    *,
    top_n: int = 0,
    temperature: Tensor | None = None,
    allowed: Tensor | None = None,
    vocabulary: int | None = None,
) -> Logprobs:
    """Log-probability and rank of one token of each row, and ids and log-probabilities of its `top_n` best.

    logits: any float type [rows, width]; tokens: int32 [rows], an id that is no token gets -inf and rank 0.
    """
    rows = read(logits, allowed, vocabulary)
    scale, _ = scales(temperature, rows)
    mass = weights(rows, scale).sum(-1)
    log_mass = torch.where(mass > 0, mass, 1.0).log2() * LN_2
    chosen = tokens.long()[:, None]
    known = (chosen >= 0) & (chosen < rows.x.shape[1])
    value = rows.x.gather(1, chosen.where(known, 0))

    def natural(x: Tensor) -> Tensor:
        return scaled_gap(x, rows.peak[:, None], scale[:, None]) * LN_2 - log_mass[:, None]

    ids = torch.arange(rows.x.shape[1], device=logits.device)
    ahead = ((rows.x > value) | ((rows.x == value) & (ids < chosen))).sum(-1, keepdim=True)
    lse = rows.peak if temperature is None else rows.peak * (scale * LN_2)
    best, best_ids = _top(rows.x, top_n)
    some = best > float("-inf")
    return Logprobs(
        natural(value).where(known, float("-inf"))[:, 0],
        (ahead + 1).where(known, 0).int()[:, 0],
        lse + log_mass,
        rows.flags,
        best_ids.where(some, -1).int(),
        natural(best).where(some, float("-inf")),
    )


def _top(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values and ids [rows, count] of the first of the order; -inf where a row has fewer."""
    rows, vocabulary = x.shape
    values = torch.full((rows, count), float("-inf"), device=x.device)
    ids = torch.full((rows, count), -1, dtype=torch.int64, device=x.device)
    for row in range(rows if count else 0):
        found = first_of_order(x[row], min(count, vocabulary))
        ids[row, : len(found)] = found
        values[row, : len(found)] = x[row, found]
    return values, ids


def first_of_order(x: Tensor, count: int) -> Tensor:
    """int64 ids of the first `count` of `x` [vocabulary]: value descending, then id ascending; none that is at -inf."""
    least = x.topk(count).values[-1]
    ids = ((x >= least) if least > float("-inf") else (x > least)).nonzero()[:, 0]
    return ids[x[ids].sort(descending=True, stable=True).indices[:count]]
