"""Third launch of the filtered sampler: candidates come together in a slab, and the last program of a row cuts them.

A top-k row ends here, with its token. A nucleus row gets the key of its last token, with which all programs then draw.
"""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels.gpu.common import LN_2
from topmast_kernels.gpu.filtered_finish import draw_from_row, draw_from_slab, row_key, slab_key
from topmast_kernels.gpu.filtered_mass import bin_of
from topmast_kernels.gpu.filters import NUCLEUS, TOP_K, row_filters
from topmast_kernels.gpu.lines import block_lines, load_lines, row_of
from topmast_kernels.gpu.order import pack
from topmast_kernels.gpu.scaling import row_scale, scaled_gap
from topmast_kernels.gpu.threshold import mass_units
from topmast_kernels.gpu.workspace import arrive


@triton.jit
def collect_kernel(
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
    bounds,
    bins,
    limits,
    aboves,
    cuts,
    slab,
    taken,
    arrivals,
    logits_stride,
    allowed_stride,
    vocabulary,
    width,
    words,
    blocks,
    SLAB: tl.constexpr,
    SMALL: tl.constexpr,
    ID_BITS: tl.constexpr,
    LINES: tl.constexpr,
):
    row = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    kind = tl.load(kinds + row)
    if (kind != TOP_K) & (kind != NUCLEUS):
        return
    scale, _ = row_scale(temperature, row)
    k, p, floor = row_filters(top_k, top_p, min_p, row, vocabulary)
    peak = tl.load(peaks + row)
    logits, slab = row_of(logits, row, logits_stride), row_of(slab, row, SLAB)
    if allowed is not None:
        allowed = row_of(allowed, row, allowed_stride)

    lines = block_lines(block, blocks, LINES)
    tokens, x, _ = load_lines(logits, allowed, lines, vocabulary, width, words)
    gap = scaled_gap(x, peak, scale)
    if kind == TOP_K:
        wanted = x >= tl.load(bounds + row)
        # Top-p's mass is that of all k tokens, so min-p may thin out the candidates only where there is no top-p.
        wanted = wanted & (gap >= tl.where(p < 1.0, float("-inf"), floor))
    else:
        wanted = (bin_of(gap) == tl.load(bins + row)) & (mass_units(gap) > 0)
    wanted = wanted & (x > float("-inf"))
    # Which slot a candidate gets depends on the moment, but nothing depends on the slot.
    slot = tl.atomic_add(taken + row + tokens * 0, 1, mask=wanted, sem="relaxed")
    tl.store(slab + slot, pack(x, tokens), mask=wanted & (slot < SLAB))

    if arrive(arrivals + row, blocks):
        count = tl.load(taken + row, cache_modifier=".cg")
        tl.store(taken + row, 0)
        limit = tl.zeros((), tl.int64)
        if kind == NUCLEUS:
            limit = tl.load(limits + row) - tl.load(aboves + row)
        source = (logits, allowed, vocabulary, width, words, blocks)
        if count <= SMALL:
            key = slab_key(slab, count, k, p, limit, peak, scale, ID_BITS, SMALL)
        elif count <= SLAB:
            key = slab_key(slab, count, k, p, limit, peak, scale, ID_BITS, SLAB)
        else:
            key = row_key(source, k, p, peak, scale, ID_BITS, LINES)
        tl.store(cuts + row, key)
        if kind == TOP_K:
            wish = (key, floor, peak, scale, tl.load(seeds + row), tl.load(positions + row))
            if count <= SLAB:
                token, token_gap, kept = draw_from_slab(slab, count, *wish, SMALL)
            else:
                token, token_gap, kept = draw_from_row(source, *wish, LINES)
            tl.store(tokens_out + row, tl.minimum(token, vocabulary - 1))
            tl.store(logprobs_out + row, (token_gap - tl.log2(tl.load(totals + row))) * LN_2)
            tl.store(kept_out + row, kept)
