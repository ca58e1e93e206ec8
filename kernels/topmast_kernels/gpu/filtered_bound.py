"""First launch of the filtered sampler: the one read that all need, and for each row what is to be done with it.

Rows without an active filter and greedy ones get their token here, by the same steps as in `sample`. For top-k the k-th
greatest column maximum bounds the k-th greatest logit from below, whatever the row: k columns have a token up to it.
Lines being interleaved over the blocks, hardly more than k tokens pass the bound.
"""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels.gpu.common import LN_2
from topmast_kernels.gpu.filters import DONE, TOP_K, row_filters, row_kind
from topmast_kernels.gpu.greedy import first_of_blocks
from topmast_kernels.gpu.lines import LINE, row_of
from topmast_kernels.gpu.order import NO_KEY, pack, unpack_value
from topmast_kernels.gpu.sample import draw
from topmast_kernels.gpu.scaling import row_scale, scaled_gap
from topmast_kernels.gpu.stats import combine, row_flags, store_blocks
from topmast_kernels.gpu.threshold import cut
from topmast_kernels.gpu.workspace import arrive


@triton.jit
def column_bound(columns, k, blocks, BLOCKS: tl.constexpr):
    """A logit that at least k tokens of the row reach, from its [blocks, 64] column maxima; -inf if none is known."""
    at = tl.arange(0, BLOCKS * LINE)
    x = tl.load(columns + at, mask=at < blocks * LINE, other=float("-inf"), cache_modifier=".cg")
    # Without ids, the keys' lower bits are the same in all of them and need no rounds.
    key = cut(pack(x, at * 0) & -0x100000000, (x > float("-inf")).to(tl.int64), k, 0)
    return tl.where(key == NO_KEY, float("-inf"), unpack_value(key))


@triton.jit(do_not_specialize=["programs", "fallback"])
def bound_kernel(
    logits,
    allowed,
    temperature,
    top_k,
    top_p,
    min_p,
    seeds,
    positions,
    tokens_out,
    logprobs_out,
    flags_out,
    kept_out,
    kinds,
    peaks_out,
    totals,
    bounds,
    cuts,
    arrivals,
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
    fallback,
    WALK: tl.constexpr,
    LINES: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0) // programs
    logits = row_of(logits, row, logits_stride)
    maxima, sums, nans = row_of(maxima, row, blocks), row_of(sums, row, blocks), row_of(nans, row, blocks)
    ids = row_of(ids, row, blocks)
    if columns is not None:
        columns = row_of(columns, row, blocks * LINE)
    if allowed is not None:
        allowed = row_of(allowed, row, allowed_stride)
    scale, greedy = row_scale(temperature, row)
    k, p, floor = row_filters(top_k, top_p, min_p, row, vocabulary)
    greedy = greedy | (k == 1) | (p <= 0.0)
    store_blocks(
        *(logits, allowed, scale, maxima, sums, nans, ids, columns, greedy),
        *(tl.program_id(0) % programs, programs, blocks, vocabulary, width, words, WALK, LINES),
    )
    if arrive(arrivals + row, programs):
        peak, mass, peaks, masses = combine(maxima, sums, blocks, scale, BLOCKS)
        tl.store(flags_out + row, row_flags(nans, peak, blocks, BLOCKS))
        tl.store(peaks_out + row, peak)
        tl.store(totals + row, mass)
        kind = row_kind(k, p, floor)
        if greedy | (peak == float("-inf")):
            kind = DONE
        tl.store(kinds + row, kind)
        tl.store(kept_out + row, tl.where(greedy & (peak > float("-inf")), 1, 0))
        tl.store(cuts + row, NO_KEY)
        if kind == DONE:
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
            tl.store(tokens_out + row, token)
            tl.store(logprobs_out + row, logprob)
        if columns is not None:  # noqa: SIM102 (known when compiled; the other one is not)
            if kind == TOP_K:
                tl.store(bounds + row, column_bound(columns, k.to(tl.int64), blocks, BLOCKS))
