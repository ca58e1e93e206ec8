"""The one pass over the logits that everything vocabulary-wide hangs on: maximum and sum of exp per block of a row.

A program reads one block, or several in turn, and stores one partial per block, so that the numbers do not depend on
the grid. `combine` puts a row's partials together, always in the same order.
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
from topmast_kernels.gpu.arguments import FLOATS, check_allowed, check_logits, check_rows
from topmast_kernels.gpu.compile_table import Case, meta, name
from topmast_kernels.gpu.lines import LINE, block_lines, load_lines, row_of
from topmast_kernels.gpu.order import NO_ID
from topmast_kernels.gpu.scaling import row_scale, scaled_gap

NAN_FLAG = tl.constexpr(1)  # a logit was NaN, allowed or not; it counted as -inf
NOTHING_FLAG = tl.constexpr(2)  # nothing was allowed: the token is the fallback
INFINITE_FLAG = tl.constexpr(4)  # an allowed logit was +inf; those that were share the mass
# Bits depend on the number of threads, which decides the order of a sum, and on which products and sums are fused, as
# the compiler decides for each variant of a kernel anew (and Triton 3.10 does no longer unasked).
PINNED = {"num_warps": 4, "enable_fp_fusion": False}


class Stats(NamedTuple):
    """Partials of each row's S blocks; maxima and columns are logits as given, before the temperature."""

    maxima: Tensor  # float32 [rows, S], -inf where nothing is allowed
    sums: Tensor  # float32 [rows, S], of exp((logit - maximum) / T); the number of +inf where the maximum is +inf
    nans: Tensor  # int32 [rows, S], 1 where a logit was NaN
    ids: Tensor | None  # int32 [rows, S], lowest id that has the maximum
    columns: Tensor | None  # float32 [rows, S, 64], maximum of each column of the block's lines

    @classmethod
    def empty(cls, rows: int, blocks: int, device: torch.device, *, ids: bool, columns: bool) -> Stats:
        def new(dtype: torch.dtype, *more: int) -> Tensor:
            return torch.empty((rows, blocks, *more), dtype=dtype, device=device)

        return cls(
            new(torch.float32),
            new(torch.float32),
            new(torch.int32),
            new(torch.int32) if ids else None,
            new(torch.float32, partition.LINE) if columns else None,
        )


@triton.jit
def store_block(x, tokens, nan, scale, block, maxima, sums, nans, ids, columns, want_id):
    """Stores the partial of one block; all pointers are the row's, `ids` and `columns` may be None."""
    peak = tl.max(x)
    tl.store(maxima + block, peak)
    tl.store(sums + block, tl.sum(tl.exp2(scaled_gap(x, peak, scale))))
    tl.store(nans + block, tl.max(nan.to(tl.int32)))
    if ids is not None:  # noqa: SIM102 (known when compiled; the other one is not)
        if want_id:
            tl.store(ids + block, tl.min(tl.where(x == peak, tokens, NO_ID)))
    if columns is not None:
        tl.store(columns + block * LINE + tl.arange(0, LINE), tl.max(x, 0))


@triton.jit
def store_blocks(
    logits,
    allowed,
    scale,
    maxima,
    sums,
    nans,
    ids,
    columns,
    want_id,
    first,
    programs,
    blocks,
    vocabulary,
    width,
    words,
    WALK: tl.constexpr,
    LINES: tl.constexpr,
):
    """Reads and stores the blocks first, first + programs, ... of a row: at most WALK of them."""
    for step in range(WALK):
        block = first + step * programs
        if block < blocks:
            lines = block_lines(block, blocks, LINES)
            tokens, x, nan = load_lines(logits, allowed, lines, vocabulary, width, words)
            store_block(x, tokens, nan, scale, block, maxima, sums, nans, ids, columns, want_id)


@triton.jit
def combine(maxima, sums, blocks, scale, BLOCKS: tl.constexpr):
    """(maximum, sum of exp, all maxima, all sums) of a row from its partials; BLOCKS: a power of two >= `blocks`."""
    at = tl.arange(0, BLOCKS)
    # Other programs may have stored these a moment ago: past the first-level cache.
    peaks = tl.load(maxima + at, mask=at < blocks, other=float("-inf"), cache_modifier=".cg")
    masses = tl.load(sums + at, mask=at < blocks, other=0.0, cache_modifier=".cg")
    peak = tl.max(peaks)
    return peak, tl.sum(masses * tl.exp2(scaled_gap(peaks, peak, scale))), peaks, masses


@triton.jit
def row_flags(nans, peak, blocks, BLOCKS: tl.constexpr):
    """int32 flags of a row from its blocks' NaN marks and its maximum."""
    at = tl.arange(0, BLOCKS)
    nan = tl.max(tl.load(nans + at, mask=at < blocks, other=0, cache_modifier=".cg"))
    return flags_of(nan, peak)


@triton.jit
def flags_of(nan, peak):
    """int32 flags of a row whose NaN mark (1 or 0) and maximum are these."""
    nothing = tl.where(peak == float("-inf"), NOTHING_FLAG, 0)
    return nan * NAN_FLAG | nothing | tl.where(peak == float("inf"), INFINITE_FLAG, 0)


@triton.jit(do_not_specialize=["programs"])
def _stats_kernel(
    logits,
    allowed,
    temperature,
    maxima,
    sums,
    nans,
    ids,
    columns,
    logits_stride,
    allowed_stride,
    vocabulary,
    width,
    words,
    blocks,
    programs,
    WALK: tl.constexpr,
    LINES: tl.constexpr,
    ONLY_GREEDY_IDS: tl.constexpr,
):
    row = tl.program_id(0) // programs
    scale, greedy = row_scale(temperature, row)
    logits = row_of(logits, row, logits_stride)
    maxima, sums, nans = row_of(maxima, row, blocks), row_of(sums, row, blocks), row_of(nans, row, blocks)
    if allowed is not None:  # Triton 3.6 has no functions that give None back, so this stands in each kernel
        allowed = row_of(allowed, row, allowed_stride)
    if ids is not None:
        ids = row_of(ids, row, blocks)
    if columns is not None:
        columns = row_of(columns, row, blocks * LINE)
    first = tl.program_id(0) % programs
    store_blocks(
        *(logits, allowed, scale, maxima, sums, nans, ids, columns, greedy if ONLY_GREEDY_IDS else True),
        *(first, programs, blocks, vocabulary, width, words, WALK, LINES),
    )


def programs_per_row(rows: int, blocks: int, walk: int | None) -> tuple[int, int]:
    """(programs for one row, blocks that each of them walks): one block, or more where rows alone fill the GPU."""
    if walk is None:
        walk = 1 << min(3, max(0, (rows * blocks // 8192).bit_length() - 1))  # few values: each is compiled
    return -(-blocks // walk), walk


def stats(
    logits: Tensor,
    *,
    temperature: Tensor | None = None,
    allowed: Tensor | None = None,
    vocabulary: int | None = None,
    ids: bool = False,
    columns: bool = False,
    out: Stats | None = None,
    block: int | None = None,
    walk: int | None = None,
) -> Stats:
    """Maximum and sum of exp of each block of each row, in one read of the logits.

    logits: float32, float16 or bfloat16 [rows, width], any row stride; the first `vocabulary` of the width are tokens.
    temperature: float32 [rows]; None or below 1e-5 counts as 1. allowed: int32 [rows, words], bit set = allowed.
    ids, columns: whether to find those too; with `out` (from `Stats.empty`) what it has is found, and nothing is
    allocated. block: tokens per block, a power of two >= 64; None = by the vocabulary. walk: blocks per program, which
    changes no bit.
    """
    vocabulary = check_logits(logits, vocabulary)
    check_rows("temperature", temperature, torch.float32, logits)
    block = partition.checked_block(vocabulary, block)
    rows, blocks = logits.shape[0], partition.block_count(vocabulary, block)
    if out is None:
        out = Stats.empty(rows, blocks, logits.device, ids=ids, columns=columns)
    elif out.maxima.shape[0] < rows or out.maxima.shape[1] != blocks:
        raise ValueError(f"out is for {list(out.maxima.shape)}; make one with Stats.empty({rows}, {blocks}, ...)")
    launch(logits, allowed, temperature, vocabulary, out, block, walk)
    return out


def launch(
    logits: Tensor,
    allowed: Tensor | None,
    temperature: Tensor | None,
    vocabulary: int,
    out: Stats,
    block: int,
    walk: int | None,
    *,
    only_greedy_ids: bool = False,
) -> None:
    """`stats` with checked arguments. only_greedy_ids: ids of rows below 1e-5 alone, as they cost half as much more."""
    words, allowed_stride = check_allowed(allowed, logits)
    rows, blocks = logits.shape[0], partition.block_count(vocabulary, block)
    if rows == 0:
        return
    programs, walk = programs_per_row(rows, blocks, walk)
    _stats_kernel[(rows * programs,)](
        *(logits, allowed, temperature, *out),
        *(logits.stride(0), allowed_stride, vocabulary, logits.shape[1], words, blocks, programs),
        WALK=walk,
        LINES=block // partition.LINE,
        ONLY_GREEDY_IDS=only_greedy_ids,
        **PINNED,
    )


def compile_cases() -> Iterator[Case]:
    for dtype in FLOATS:
        call = partial(stats, meta((8, 128256), dtype), columns=True)
        yield Case(f"{name(dtype)} columns", call, wide=("_stats_kernel",))
    logits, mask, scale = meta((8, 32001), torch.bfloat16), meta((8, 1001), torch.int32), meta((8,), torch.float32)
    everything = partial(stats, logits, temperature=scale, allowed=mask, ids=True, columns=True)
    yield Case("odd vocabulary, all options", everything)
    padded = partial(stats, meta((512, 128256), torch.bfloat16), vocabulary=128001)
    yield Case("padded vocabulary, several blocks per program", padded, wide=("_stats_kernel",))
