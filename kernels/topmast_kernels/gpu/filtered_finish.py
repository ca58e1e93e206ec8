"""What the last program of a row makes of its candidates; it reads the row again if there were too many of them."""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels.gpu.lines import block_lines, load_lines
from topmast_kernels.gpu.noise import TOKEN_STREAM, gumbel2
from topmast_kernels.gpu.order import NO_ID, NO_KEY, first_best, pack, unpack_id, unpack_value
from topmast_kernels.gpu.scaling import scaled_gap
from topmast_kernels.gpu.threshold import COUNT, MASS, cut, mass_limit, mass_units, row_cut, row_from


@triton.jit
def gap_of(keys, peak, scale):
    """`scaled_gap` of the values in keys, -inf for NO_KEY."""
    real = keys != NO_KEY
    x = tl.where(real, unpack_value(keys), float("-inf"))
    return tl.where(real, scaled_gap(x, peak, scale), float("-inf"))


@triton.jit
def nucleus_from_slab(slab, count, limit, peak, scale, ID_BITS: tl.constexpr, SIZE: tl.constexpr):
    """Key of the token at which the mass of the first `count` <= SIZE keys of the slab reaches `limit`."""
    at = tl.arange(0, SIZE)
    keys = tl.load(slab + at, mask=at < count, other=NO_KEY, cache_modifier=".cg")
    return cut(keys, mass_units(gap_of(keys, peak, scale)), limit, ID_BITS)


@triton.jit
def draw_from_slab(slab, count, k, p, floor, peak, scale, seed, position, ID_BITS: tl.constexpr, SIZE: tl.constexpr):
    """(token, its gap, number kept) of a top-k row whose candidates are the first `count` <= SIZE keys of the slab."""
    at = tl.arange(0, SIZE)
    keys = tl.load(slab + at, mask=at < count, other=NO_KEY, cache_modifier=".cg")
    keys = tl.where(keys >= cut(keys, (keys != NO_KEY).to(tl.int64), k, ID_BITS), keys, NO_KEY)
    real = keys != NO_KEY
    ids = tl.where(real, unpack_id(keys), NO_ID)
    gap = gap_of(keys, peak, scale)
    if p < 1.0:
        units = mass_units(gap)
        real = real & (keys >= cut(keys, units, mass_limit(tl.sum(units), p), ID_BITS))
    real = real & (gap >= floor)
    score = tl.where(real, gap + gumbel2(seed, position, TOKEN_STREAM, ids), float("-inf"))
    _, token = first_best(score, ids)
    return token, tl.max(tl.where(ids == token, gap, float("-inf"))), tl.sum(real.to(tl.int32))


@triton.jit
def draw_from_row(
    logits,
    allowed,
    vocabulary,
    width,
    words,
    blocks,
    k,
    p,
    floor,
    peak,
    scale,
    seed,
    position,
    ID_BITS: tl.constexpr,
    LINES: tl.constexpr,
):
    """`draw_from_slab` for a top-k row with more candidates than the slab takes."""
    row = (logits, allowed, vocabulary, width, words, blocks)
    key = row_cut(k.to(tl.int64), row, peak, scale, ID_BITS, COUNT, LINES)
    if p < 1.0:
        limit = mass_limit(row_from(key, row, peak, scale, MASS, LINES), p)
        key = tl.maximum(key, row_cut(limit, row, peak, scale, ID_BITS, MASS, LINES))
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
