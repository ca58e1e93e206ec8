"""Twin of `topmast_kernels.gpu.greedy`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from topmast_kernels.twin.rows import LN_2, Rows, check_fallback, read, scales, weights


class Greedy(NamedTuple):
    """One entry per row; in a row where nothing is allowed the fallback token, -inf and -inf."""

    tokens: Tensor  # int32
    logprobs: Tensor  # float32, natural, of the token
    lse: Tensor  # float32, log-sum-exp of the allowed logits
    flags: Tensor  # int32: 1 NaN seen, 2 nothing allowed, 4 +inf seen


def greedy(
    logits: Tensor, *, allowed: Tensor | None = None, vocabulary: int | None = None, fallback: int = 0
) -> Greedy:
    """The token with the greatest logit of each row (of equal ones the lowest id), its log-probability, and the LSE.

    logits: any float type [rows, width]; allowed: int32 [rows, words], bit set = allowed; as in the kernel.
    """
    rows = read(logits, allowed, vocabulary)
    check_fallback(fallback, rows.x.shape[1])
    scale, _ = scales(None, rows)
    log_mass = weights(rows, scale).sum(-1).log2() * LN_2
    nothing = rows.peak == float("-inf")
    log_mass = torch.where(nothing, 0.0, log_mass)
    return Greedy(
        first_best(rows, fallback), torch.where(nothing, rows.peak, -log_mass), rows.peak + log_mass, rows.flags
    )


def first_best(rows: Rows, fallback: int) -> Tensor:
    """int32 [rows]: the lowest id of those with the row's maximum, the fallback where nothing is allowed."""
    nothing = rows.peak == float("-inf")
    return torch.where(nothing, fallback, rows.x.argmax(-1)).int()
