"""Twin of `topmast_kernels.gpu.sample`: the same blocks, lines and noise, so the same token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from topmast_kernels import partition
from topmast_kernels.twin.greedy import first_best
from topmast_kernels.twin.noise import BLOCK_STREAM, LINE_STREAM, TOKEN_STREAM, gumbel2
from topmast_kernels.twin.rows import LN_2, Rows, check_fallback, read, scaled_gap, scales, weights


class Sampled(NamedTuple):
    """One entry per row; in a row where nothing is allowed the fallback token and -inf."""

    tokens: Tensor  # int32
    logprobs: Tensor  # float32, natural, under the distribution drawn from; of a greedy row at T = 1
    flags: Tensor  # int32: 1 NaN seen, 2 nothing allowed, 4 +inf seen


def sample(
    logits: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    temperature: Tensor | None = None,
    allowed: Tensor | None = None,
    vocabulary: int | None = None,
    fallback: int = 0,
    block: int | None = None,
) -> Sampled:
    """A token of each row, drawn with probability proportional to exp(logit / T), and its log-probability.

    logits: any float type [rows, width]; seeds: int64 [rows]; positions: int32 [rows]; the rest as in the kernel.
    """
    rows = read(logits, allowed, vocabulary)
    check_fallback(fallback, rows.x.shape[1])
    scale, greedy = scales(temperature, rows)
    tokens = first_best(rows, fallback)
    if not bool(greedy.all()):
        drawn = draw(rows, scale, seeds, positions, partition.checked_block(rows.x.shape[1], block))
        tokens = torch.where(greedy | (rows.peak == float("-inf")), tokens, drawn)
    return Sampled(tokens, token_logprobs(rows, scale, tokens), rows.flags)


def token_logprobs(rows: Rows, scale: Tensor, tokens: Tensor) -> Tensor:
    """float32 [rows], natural, of int32 `tokens` [rows] under softmax(x / T); -inf in a row of nothing."""
    gap = scaled_gap(rows.x.gather(1, tokens.long()[:, None])[:, 0], rows.peak, scale)
    mass = weights(rows, scale).sum(-1)
    return torch.where(mass > 0, (gap - mass.log2()) * LN_2, float("-inf"))


def draw(rows: Rows, scale: Tensor, seeds: Tensor, positions: Tensor, block: int) -> Tensor:
    """int32 [rows]: first a block, then a line of it, then a token, each by its log2 mass plus Gumbel noise."""
    count, vocabulary = rows.x.shape
    blocks, lines = partition.block_count(vocabulary, block), block // partition.LINE
    x = pad(rows.x, (0, blocks * block - vocabulary), value=float("-inf"))
    x = x.view(count, lines, blocks, partition.LINE)
    each = torch.arange(count, device=x.device)

    peaks = x.amax(3).amax(1)
    gap = scaled_gap(x, peaks[:, None, :, None], scale[:, None, None, None])
    masses = gap.exp2().sum(3)  # of each line, relative to its block's maximum
    weight = scaled_gap(peaks, rows.peak[:, None], scale[:, None]) + masses.sum(1).log2()
    chosen = (weight + gumbel2(seeds, positions, BLOCK_STREAM, torch.arange(blocks))).argmax(-1)

    ids = chosen[:, None] + torch.arange(lines) * blocks
    line = (masses[each, :, chosen].log2() + gumbel2(seeds, positions, LINE_STREAM, ids)).argmax(-1)

    tokens = ids[each, line, None] * partition.LINE + torch.arange(partition.LINE)
    token = (gap[each, line, chosen] + gumbel2(seeds, positions, TOKEN_STREAM, tokens)).argmax(-1)
    return tokens[each, token].int()
