"""Second launch of the filtered sampler, for rows with top-p and no top-k: where the row completes its nucleus.

The mass of each row by distance from the maximum, in slices of 1/16 bit. Whole units make the sums exact and the same
in any order, so the mass above the slice is known exactly and only the slice's own tokens need to be looked at one by
one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels.gpu.filters import NUCLEUS, row_filters
from topmast_kernels.gpu.lines import block_lines, load_lines, row_of
from topmast_kernels.gpu.scaling import row_scale, scaled_gap
from topmast_kernels.gpu.threshold import mass_limit, mass_units
from topmast_kernels.gpu.workspace import arrive

BINS = tl.constexpr(512)
BINS_PER_BIT = tl.constexpr(16.0)  # so that the bins reach 32 bits, 22 nats, below the maximum


@triton.jit
def bin_of(gap):
    """int32 bin of a token `gap` bits from the maximum; the last one has all that is farther."""
    return tl.minimum(gap * -BINS_PER_BIT, BINS - 1).to(tl.int32)


@triton.jit
def mass_kernel(
    logits,
    allowed,
    temperature,
    top_k,
    top_p,
    min_p,
    kinds,
    peaks,
    bins,
    limits,
    aboves,
    masses,
    arrivals,
    logits_stride,
    allowed_stride,
    vocabulary,
    width,
    words,
    blocks,
    LINES: tl.constexpr,
):
    row = tl.program_id(0) // blocks
    if tl.load(kinds + row) != NUCLEUS:
        return
    logits, masses = row_of(logits, row, logits_stride), row_of(masses, row, BINS)
    if allowed is not None:
        allowed = row_of(allowed, row, allowed_stride)
    scale, _ = row_scale(temperature, row)
    _, p, _ = row_filters(top_k, top_p, min_p, row, vocabulary)
    lines = block_lines(tl.program_id(0) % blocks, blocks, LINES)
    _, x, _ = load_lines(logits, allowed, lines, vocabulary, width, words)
    gap = scaled_gap(x, tl.load(peaks + row), scale)
    units = mass_units(gap)
    tl.atomic_add(masses + bin_of(gap), units, mask=units > 0, sem="relaxed")
    if arrive(arrivals + row, blocks):
        at = tl.arange(0, BINS)
        mass = tl.load(masses + at, cache_modifier=".cg")
        tl.store(masses + at, tl.zeros((BINS,), tl.int64))
        limit = mass_limit(tl.sum(mass), p)
        complete = tl.sum((tl.cumsum(mass, 0) < limit).to(tl.int32))  # the bins before the one that reaches the limit
        tl.store(bins + row, complete)
        tl.store(limits + row, limit)
        tl.store(aboves + row, tl.sum(tl.where(at < complete, mass, 0)))
