"""Twin of `topmast_kernels.gpu.penalties`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_BIAS_LIMIT = 100.0  # of OpenAI's API


class Touched(NamedTuple):
    """Ids that requests have touched, in any order; a pair (row, id) may stand here only once.

    Entries whose row or id does not exist, as -1, are skipped.
    """

    rows: Tensor  # int32 [n], row of the logits
    ids: Tensor  # int32 [n]
    prompt: Tensor  # bool [n], whether the id is in the request's prompt
    counts: Tensor  # int32 [n], how often it is in the request's output
    bias: Tensor | None = None  # float32 [n], added to the logit; clamped to [-100, 100]


def penalties(
    logits: Tensor,
    touched: Touched,
    *,
    repetition: Tensor | None = None,
    frequency: Tensor | None = None,
    presence: Tensor | None = None,
    vocabulary: int | None = None,
    saved: Tensor | None = None,
) -> Tensor:
    """Changes the touched logits in place, each in float32 and rounded once, and returns `logits`.

    Bias, then repetition over prompt and output (a positive logit is divided by the factor, another multiplied), then
    over the output frequency times the count, and presence where the count is not 0. repetition, frequency, presence:
    float32 [rows]. saved: like the logits [n]; gets the values from before, for `restore`.
    """
    known, rows, ids = _known(logits, touched, vocabulary)
    given = logits[rows, ids]
    if saved is not None:
        saved[known] = given
    x, counts = given.float(), touched.counts[known]
    if touched.bias is not None:
        x = x + touched.bias[known].clamp(-_BIAS_LIMIT, _BIAS_LIMIT)
    if repetition is not None:
        factor = repetition[rows]
        x = torch.where(touched.prompt[known] | (counts > 0), torch.where(x > 0, x / factor, x * factor), x)
    if frequency is not None:
        x = x - counts.float() * frequency[rows]
    if presence is not None:
        x = x - torch.where(counts > 0, presence[rows], 0.0)
    logits[rows, ids] = x.to(logits.dtype)
    return logits


def restore(logits: Tensor, touched: Touched, saved: Tensor, *, vocabulary: int | None = None) -> Tensor:
    """Puts back what `penalties` saved, to the bit, and returns `logits`."""
    known, rows, ids = _known(logits, touched, vocabulary)
    logits[rows, ids] = saved[known]
    return logits


def _known(logits: Tensor, touched: Touched, vocabulary: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """(which entries exist, their rows, their ids)."""
    vocabulary = logits.shape[1] if vocabulary is None else vocabulary
    rows, ids = touched.rows, touched.ids
    known = (rows >= 0) & (rows < len(logits)) & (ids >= 0) & (ids < vocabulary)
    return known, rows[known].long(), ids[known].long()
