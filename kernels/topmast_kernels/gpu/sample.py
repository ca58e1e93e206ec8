"""A draw from each row's softmax: one launch, one read of the logits, 64 draws of noise and a block and a line more.

Gumbel's maximum taken in three levels (block, line, token): the noise of a group, added to the group's log-sum-exp,
picks the group exactly as the noise of its tokens would have. So not every token needs noise, which costs more than
reading it. Two calls with nearly the same logits draw the same token nearly always, unlike with a cumulated sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from topmast_kernels import partition
from topmast_kernels.gpu.arguments import FLOATS, check_allowed, check_fallback, check_logits, check_out, check_rows
from topmast_kernels.gpu.common import LN_2
from topmast_kernels.gpu.compile_table import Case, meta, name
from topmast_kernels.gpu.greedy import first_of_blocks
from topmast_kernels.gpu.lines import block_lines, load_lines, row_of
from topmast_kernels.gpu.noise import BLOCK_STREAM, LINE_STREAM, TOKEN_STREAM, gumbel2
from topmast_kernels.gpu.order import first_best
from topmast_kernels.gpu.scaling import row_scale, scaled_gap
from topmast_kernels.gpu.stats import PINNED, combine, programs_per_row, row_flags, store_blocks
from topmast_kernels.gpu.workspace import Workspace, arrive


class Sampled(NamedTuple):
    """One entry per row; in a row where nothing is allowed the fallback token and -inf."""

    tokens: Tensor  # int32
    logprobs: Tensor  # float32, natural, under the distribution drawn from; of a greedy row at T = 1
    flags: Tensor  # int32: 1 NaN seen, 2 nothing allowed, 4 +inf seen

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> Sampled:
        kinds = (torch.int32, torch.float32, torch.int32)
        return cls(*(torch.empty(rows, dtype=kind, device=device) for kind in kinds))


@triton.jit
def log2_mass(mass):
    """log2, -inf for 0."""
    return tl.where(mass > 0.0, tl.log2(tl.where(mass > 0.0, mass, 1.0)), float("-inf"))


@triton.jit
def draw(
    logits,
    allowed,
    peaks,
    masses,
    scale,
    seed,
    position,
    blocks,
    vocabulary,
    width,
    words,
    LINES: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """(token, its logit) drawn from a row whose partials are `peaks` and `masses`; not for a row of only -inf."""
    at = tl.arange(0, BLOCKS)
    weight = scaled_gap(peaks, tl.max(peaks), scale) + log2_mass(masses)
    _, block = first_best(weight + gumbel2(seed, position, BLOCK_STREAM, at), at)

    lines = block_lines(block, blocks, LINES)
    _, x, _ = load_lines(logits, allowed, lines, vocabulary, width, words)
    peak = tl.max(x)
    weight = log2_mass(tl.sum(tl.exp2(scaled_gap(x, peak, scale)), 1))
    _, line = first_best(weight + gumbel2(seed, position, LINE_STREAM, lines), lines)

    tokens, x, _ = load_lines(logits, allowed, line + tl.arange(0, 1), vocabulary, width, words)
    weight = scaled_gap(x, peak, scale)
    _, token = first_best(weight + gumbel2(seed, position, TOKEN_STREAM, tokens), tokens)
    return token, tl.max(tl.where(tokens == token, x, float("-inf")))


@triton.jit(do_not_specialize=["programs", "fallback"])
def _sample_kernel(
    logits,
    allowed,
    temperature,
    seeds,
    positions,
    tokens,
    logprobs,
    flags,
    arrivals,
    maxima,
    sums,
    nans,
    ids,
    logits_stride,
    allowed_stride,
    vocabulary,
    width,
    words,
    blocks,
    programs,
    fallback,
    WALK: tl.constexpr,
    LINES: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0) // programs
    logits = row_of(logits, row, logits_stride)
    maxima, sums, nans = row_of(maxima, row, blocks), row_of(sums, row, blocks), row_of(nans, row, blocks)
    ids = row_of(ids, row, blocks)
    if allowed is not None:
        allowed = row_of(allowed, row, allowed_stride)
    scale, greedy = row_scale(temperature, row)
    store_blocks(
        *(logits, allowed, scale, maxima, sums, nans, ids, None, greedy),
        *(tl.program_id(0) % programs, programs, blocks, vocabulary, width, words, WALK, LINES),
    )
    if arrive(arrivals + row, programs):
        peak, mass, peaks, masses = combine(maxima, sums, blocks, scale, BLOCKS)
        token = fallback
        logprob = float("-inf")
        if peak > float("-inf"):
            if greedy:
                token = first_of_blocks(ids, peaks, peak, blocks, BLOCKS)
                logprob = -tl.log2(mass) * LN_2
            else:
                token, x = draw(
                    *(logits, allowed, peaks, masses, scale, tl.load(seeds + row), tl.load(positions + row)),
                    *(blocks, vocabulary, width, words, LINES, BLOCKS),
                )
                logprob = (scaled_gap(x, peak, scale) - tl.log2(mass)) * LN_2
        tl.store(tokens + row, token)
        tl.store(logprobs + row, logprob)
        tl.store(flags + row, row_flags(nans, peak, blocks, BLOCKS))


def sample(
    logits: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    temperature: Tensor | None = None,
    allowed: Tensor | None = None,
    vocabulary: int | None = None,
    fallback: int = 0,
    out: Sampled | None = None,
    workspace: Workspace | None = None,
    block: int | None = None,
    walk: int | None = None,
) -> Sampled:
    """A token of each row, drawn with probability proportional to exp(logit / T), and its log-probability.

    logits: float32, float16 or bfloat16 [rows, width], any row stride; the first `vocabulary` of the width are tokens.
    seeds: int64 [rows], the bits of each request's own seed. positions: int32 [rows], the position of the token in its
    sequence. Same seed, position and logits: same token, wherever the row stands. temperature: float32 [rows], None for
    1; rows below 1e-5 take the greatest logit, as `greedy` does. allowed: int32 [rows, words], bit set = allowed,
    beyond the words forbidden. fallback: the token of a row in which nothing is allowed. NaN counts as -inf; of tokens
    at +inf each is as likely as the other. With `out` and `workspace` nothing is allocated. block, walk: as in `stats`,
    but the block is part of the draw: another size draws other tokens.
    """
    vocabulary = check_logits(logits, vocabulary)
    check_fallback(fallback, vocabulary)
    check_rows("seeds", seeds, torch.int64, logits)
    check_rows("positions", positions, torch.int32, logits)
    check_rows("temperature", temperature, torch.float32, logits)
    words, allowed_stride = check_allowed(allowed, logits)
    block = partition.checked_block(vocabulary, block)
    rows, blocks = logits.shape[0], partition.block_count(vocabulary, block)
    out = Sampled.empty(rows, logits.device) if out is None else out
    check_out(out, rows)
    if workspace is None:
        workspace = Workspace.make(rows, vocabulary, device=logits.device, block=block)
    workspace.check(rows, blocks)
    if rows == 0:
        return out
    programs, walk = programs_per_row(rows, blocks, walk)
    _sample_kernel[(rows * programs,)](
        logits,
        allowed,
        temperature,
        seeds,
        positions,
        *out,
        workspace.arrivals,
        *workspace.stats[:4],
        logits.stride(0),
        allowed_stride,
        vocabulary,
        logits.shape[1],
        words,
        blocks,
        programs,
        fallback,
        WALK=walk,
        LINES=block // partition.LINE,
        BLOCKS=triton.next_power_of_2(blocks),
        **PINNED,
    )
    return out


def compile_cases() -> Iterator[Case]:
    def rows(count: int) -> tuple[Tensor, Tensor, Tensor]:
        return meta((count,), torch.int64), meta((count,), torch.int32), meta((count,), torch.float32)

    seeds, positions, scale = rows(8)
    for dtype in FLOATS:
        logits = meta((8, 128256), dtype)
        yield Case(name(dtype), partial(sample, logits, seeds, positions, temperature=scale), wide=("_sample_kernel",))
    yield Case("no temperature", partial(sample, meta((8, 128256), torch.bfloat16), seeds, positions))
    seeds, positions, scale = rows(512)
    logits, mask = meta((512, 128256), torch.bfloat16), meta((512, 4008), torch.int32)
    masked = partial(sample, logits, seeds, positions, temperature=scale, allowed=mask)
    yield Case("masked, several blocks per program", masked, wide=("_sample_kernel",))
