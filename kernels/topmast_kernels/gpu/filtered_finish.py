"""What the last program of a row makes of its candidates; it reads the row again if there were too many of them."""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels.gpu.lines import block_lines, load_lines
from topmast_kernels.gpu.noise import TOKEN_STREAM, gumbel2
from topmast_kernels.gpu.order import NO_ID, NO_KEY, first_best, pack, unpack_id, unpack_value
from topmast_kernels.gpu.scaling import scaled_gap
from topmast_kernels.gpu.threshold import cut, mass_limit, mass_units, row_cut, row_from


@triton.jit
def gap_of(keys, peak, scale):
    """`scaled_gap` of the values in keys, -inf for NO_KEY."""
    real = keys != NO_KEY
    x = tl.where(real, unpack_value(keys), float("-inf"))
    return tl.where(real, scaled_gap(x, peak, scale), float("-inf"))


@triton.jit
def slab_key(slab, count, k, p, limit, peak, scale, ID_BITS: tl.constexpr, SIZE: tl.constexpr):
    """Key of the last token that top-k and then top-p leave, from the first `count` <= SIZE keys of the slab.

    k = 0: the slab has a slice of the row, in which the nucleus is complete at the mass `limit`.
    """
    at = tl.arange(0, SIZE)
    keys = tl.load(slab + at, mask=at < count, other=NO_KEY, cache_modifier=".cg")
    key = tl.full((), NO_KEY, tl.int64)
    if k > 0:
        key = cut(keys, (keys != NO_KEY).to(tl.int64), k, ID_BITS)
    if p < 1.0:
        units = tl.where(keys >= key, mass_units(gap_of(keys, peak, scale)), 0)
        if k > 0:
            limit = mass_limit(tl.sum(units), p)
        key = tl.maximum(key, cut(keys, units, limit, ID_BITS))
    return key


@triton.jit
def row_key(row, k, p, peak, scale, ID_BITS: tl.constexpr, LINES: tl.constexpr):
    """`slab_key` for a row with more candidates than the slab takes: first cut by count, then by mass."""
    key = tl.full((), NO_KEY, tl.int64)
    for stage in range(2):
        weigh = stage == 1
        if (weigh & (p < 1.0)) | ((stage == 0) & (k > 0)):
            limit = k.to(tl.int64)
            if weigh:
                limit = mass_limit(row_from(key, row, peak, scale, weigh, LINES), p)
            key = tl.maximum(key, row_cut(limit, row, peak, scale, weigh, ID_BITS, LINES))
    return key


@triton.jit
def draw_from_slab(slab, count, key, floor, peak, scale, seed, position, SIZE: tl.constexpr):
    """(token, its gap, number kept) of what `key` and `floor` leave of the first `count` keys of the slab."""
    best = tl.full((), float("-inf"), tl.float32)
    best_gap = best
    token = tl.full((), NO_ID, tl.int32)
    kept = tl.zeros((), tl.int32)
    for start in range(0, count, SIZE):
        at = start + tl.arange(0, SIZE)
        keys = tl.load(slab + at, mask=at < count, other=NO_KEY, cache_modifier=".cg")
        ids = tl.where(keys != NO_KEY, unpack_id(keys), NO_ID)
        gap = gap_of(keys, peak, scale)
        real = (keys != NO_KEY) & (keys >= key) & (gap >= floor)
        kept += tl.sum(real.to(tl.int32))
        score = tl.where(real, gap + gumbel2(seed, position, TOKEN_STREAM, ids), float("-inf"))
        top, first = first_best(score, ids)
        if (top > best) | ((top == best) & (first < token)):
            best_gap = tl.max(tl.where(ids == first, gap, float("-inf")))
            best = top
            token = first
    return token, best_gap, kept


@triton.jit
def draw_from_row(row, key, floor, peak, scale, seed, position, LINES: tl.constexpr):
    """`draw_from_slab` from the row itself."""
    logits, allowed, vocabulary, width, words, blocks = row
    best = tl.full((), float("-inf"), tl.float32)
    best_gap = best
    token = tl.full((), NO_ID, tl.int32)
    kept = tl.zeros((), tl.int32)
    for block in range(blocks):
        lines = block_lines(block, blocks, LINES)
        tokens, x, _ = load_lines(logits, allowed, lines, vocabulary, width, words)
        gap = scaled_gap(x, peak, scale)
        real = (x > float("-inf")) & (pack(x, tokens) >= key) & (gap >= floor)
        kept += tl.sum(real.to(tl.int32))
        score = tl.where(real, gap + gumbel2(seed, position, TOKEN_STREAM, tokens), float("-inf"))
        top, first = first_best(score, tokens)
        if (top > best) | ((top == best) & (first < token)):
            best_gap = tl.max(tl.where(tokens == first, gap, float("-inf")))
            best = top
            token = first
    return token, best_gap, kept
