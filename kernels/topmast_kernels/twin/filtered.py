"""Twin of `topmast_kernels.gpu.filtered`: sampling with top-k, top-p and min-p. Made for CPUs: no row is sorted whole
unless its nucleus takes most of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from topmast_kernels import partition
from topmast_kernels.twin.greedy import first_best
from topmast_kernels.twin.logprobs import first_of_order
from topmast_kernels.twin.noise import TOKEN_STREAM, gumbel2
from topmast_kernels.twin.rows import Rows, check_fallback, read, scaled_gap, scales
from topmast_kernels.twin.sample import draw, token_logprobs

_UNITS = 2.0**40  # masses are whole numbers of this share of the row's maximum, so that sums are exact in any order


class Filtered(NamedTuple):
    """One entry per row; in a row where nothing is allowed the fallback token, -inf and 0."""

    tokens: Tensor  # int32
    logprobs: Tensor  # float32, natural, under softmax(logits / T) before the filters; of rows with T < 1e-5 at T = 1
    flags: Tensor  # int32: 1 NaN seen, 2 nothing allowed, 4 +inf seen
    kept: Tensor  # int32, how many tokens the filters left, 1 for greedy rows, 0 for rows without an active filter


def sample_filtered(
    logits: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    allowed: Tensor | None = None,
    vocabulary: int | None = None,
    fallback: int = 0,
    block: int | None = None,
) -> Filtered:
    """A token of each row, drawn from what its filters leave: top-k, then top-p, then min-p, in transformers' order.

    logits: any float type [rows, width]; seeds: int64 [rows]; positions: int32 [rows]. top_k: int32 [rows], off where
    <= 0 or >= vocabulary; top_p: float32 [rows], off where >= 1; min_p: float32 [rows], off where <= 0; None is off
    everywhere. The rest as in the kernel.
    """
    rows = read(logits, allowed, vocabulary)
    count, vocabulary = rows.x.shape
    check_fallback(fallback, vocabulary)
    scale, coldest = scales(temperature, rows)
    tokens, kept = first_best(rows, fallback), [0] * count
    plain, filtered = [], []
    wishes = zip(
        (rows.peak > float("-inf")).tolist(),
        coldest.tolist(),
        top_k.tolist() if top_k is not None else [0] * count,
        top_p.tolist() if top_p is not None else [1.0] * count,
        min_p.tolist() if min_p is not None else [0.0] * count,
        strict=True,
    )
    for row, (some, cold, k, p, share) in enumerate(wishes):
        k = k if 0 < k < vocabulary else 0
        if cold or k == 1 or p <= 0.0:
            kept[row] = int(some)
        elif some and (k or p < 1.0 or share > 0.0):
            filtered.append((row, *_filter(rows.x[row], rows.peak[row], scale[row], k, p, share)))
        elif some:
            plain.append(row)
    if filtered:
        found, lists, gaps = zip(*filtered, strict=True)
        sizes, ids = torch.tensor([len(each) for each in lists]), torch.cat(lists)
        at = torch.tensor(found, device=logits.device).repeat_interleave(sizes)
        noise = gumbel2(seeds[at], positions[at], TOKEN_STREAM, ids[:, None])[:, 0]
        scores = torch.tensor_split(torch.cat(gaps) + noise, sizes.cumsum(0)[:-1].tolist())
        for row, own, score in zip(found, lists, scores, strict=True):
            kept[row] = len(own)
            tokens[row] = own[score.argmax()]
    if plain:
        block = partition.checked_block(vocabulary, block)
        at = torch.tensor(plain, device=logits.device)
        some_rows = rows if len(plain) == count else Rows(rows.x[at], rows.peak[at], rows.flags[at])
        tokens[at] = draw(some_rows, scale[at], seeds[at], positions[at], block)
    logprobs = token_logprobs(rows, scale, tokens)
    return Filtered(tokens, logprobs, rows.flags, torch.tensor(kept, dtype=torch.int32, device=logits.device))


def _filter(x: Tensor, peak: Tensor, scale: Tensor, k: int, p: float, share: float) -> tuple[Tensor, Tensor]:
    """(ids in the order, their log2 weights relative to the maximum's) of what the filters leave of one row."""
    floor = math.log2(min(share, 1.0)) if share > 0.0 else -math.inf
    if p < 1.0:
        ids = _nucleus(x, peak, scale, k, p)
    elif k:
        ids = first_of_order(x, k)
    else:
        ids = ((scaled_gap(x, peak, scale) >= floor) & (x > float("-inf"))).nonzero()[:, 0]
    gap = scaled_gap(x[ids], peak, scale)
    passed = gap >= floor
    return ids[passed], gap[passed]


def _nucleus(x: Tensor, peak: Tensor, scale: Tensor, k: int, p: float) -> Tensor:
    """Ids whose preceding mass is less than p of that of the first k, or of all for k = 0."""

    def units(some: Tensor) -> Tensor:
        return (scaled_gap(some, peak, scale).exp2() * _UNITS).long()

    limit = 0 if k else max(1, math.ceil(p * int(units(x).sum())))
    for size in (k,) if k else (256, 4096, len(x)):  # a nucleus is nearly always within the first few hundred
        ids = first_of_order(x, min(size, len(x)))
        mass = units(x[ids])
        total = mass.cumsum(0)
        if k:
            limit = max(1, math.ceil(p * int(total[-1])))
        if int(total[-1]) >= limit:
            break
    return ids[total - mass < limit]
