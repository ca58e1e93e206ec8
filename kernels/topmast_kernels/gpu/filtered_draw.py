"""Last launch of the filtered sampler, for rows with top-p or min-p and no top-k, whose tokens may be any number.

Noise belongs to the token's id, so that the token drawn is a function of the kept set and of nothing else. Blocks
without a kept token, nearly all of them unless the row is flat, are not read.
"""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels.gpu.common import LN_2
from topmast_kernels.gpu.filters import FLOOR, NUCLEUS, row_filters
from topmast_kernels.gpu.lines import block_lines, load_lines, load_tokens, row_of
from topmast_kernels.gpu.noise import TOKEN_STREAM, gumbel2
from topmast_kernels.gpu.order import NO_ID, first_best, pack
from topmast_kernels.gpu.scaling import row_scale, scaled_gap
from topmast_kernels.gpu.workspace import arrive


@triton.jit
def draw_kernel(
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
    kept_out,
    kinds,
    peaks,
    totals,
    cuts,
    arrivals,
    maxima,
    scores,
    ids,
    logits_stride,
    allowed_stride,
    vocabulary,
    width,
    words,
    blocks,
    LINES: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    kind = tl.load(kinds + row)
    if (kind != NUCLEUS) & (kind != FLOOR):
        return
    logits = row_of(logits, row, logits_stride)
    maxima, scores, ids = row_of(maxima, row, blocks), row_of(scores, row, blocks), row_of(ids, row, blocks)
    if allowed is not None:
        allowed = row_of(allowed, row, allowed_stride)
    scale, _greedy = row_scale(temperature, row)
    _k, _p, floor = row_filters(top_k, top_p, min_p, row, vocabulary)
    peak, key = tl.load(peaks + row), tl.load(cuts + row)
    best = tl.load(maxima + block)
    score = tl.full((), float("-inf"), tl.float32)
    first = tl.full((), NO_ID, tl.int32)
    if (best > float("-inf")) & (pack(best, block * 0) >= key) & (scaled_gap(best, peak, scale) >= floor):
        lines = block_lines(block, blocks, LINES)
        tokens, x, _nan = load_lines(logits, allowed, lines, vocabulary, width, words)
        gap = scaled_gap(x, peak, scale)
        real = (x > float("-inf")) & (pack(x, tokens) >= key) & (gap >= floor)
        noise = gumbel2(tl.load(seeds + row), tl.load(positions + row), TOKEN_STREAM, tokens)
        noisy = tl.where(real, gap + noise, float("-inf"))
        score, first = first_best(noisy, tokens)
        tl.atomic_add(kept_out + row, tl.sum(real.to(tl.int32)), sem="relaxed")
    tl.store(scores + block, score)
    tl.store(ids + block, first)
    if arrive(arrivals + row, blocks):
        at = tl.arange(0, BLOCKS)
        noisy = tl.load(scores + at, mask=at < blocks, other=float("-inf"), cache_modifier=".cg")
        candidates = tl.load(ids + at, mask=at < blocks, other=NO_ID, cache_modifier=".cg")
        _score, token = first_best(noisy, candidates)
        token = tl.minimum(token, vocabulary - 1)  # whatever went wrong, an id that is no token would spread it
        gap = scaled_gap(load_tokens(logits, allowed, token, vocabulary, words), peak, scale)
        tl.store(tokens_out + row, token)
        tl.store(logprobs_out + row, (gap - tl.log2(tl.load(totals + row))) * LN_2)
