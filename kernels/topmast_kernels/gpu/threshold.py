"""Where a filter cuts the total order of tokens, found by integer search: nothing is sorted, no tie is left open.

Every token has a unique 64-bit key (`order.pack`). Top-k and top-p both ask for the greatest key at which enough has
come together: k tokens, or a mass of p. Masses are whole numbers of 2**-40 of the most likely token's, so that sums are
exact in any order and a cut does not depend on who added first. The search settles one bit of the key per round.
"""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels.gpu.lines import block_lines, load_lines
from topmast_kernels.gpu.order import NO_ID, NO_KEY, pack
from topmast_kernels.gpu.scaling import scaled_gap

UNITS = tl.constexpr(2.0**40)  # in the weight of the row's maximum; 2**22 tokens fit into 63 bits


@triton.jit
def mass_units(gap):
    """int64 weight of tokens that are `gap` bits (<= 0) from the maximum."""
    return (tl.exp2(gap) * UNITS).to(tl.int64)


@triton.jit
def mass_limit(total, top_p):
    """The mass at which a nucleus is complete: a token stays if the mass before it is less than this; at least 1."""
    wanted = tl.ceil(total.to(tl.float64) * top_p.to(tl.float64)).to(tl.int64)
    return tl.maximum(wanted, 1)


@triton.jit
def fixed_bits(ID_BITS: tl.constexpr):
    """int64 with the bits that are set in the lower word of every key whose id is below 2**ID_BITS."""
    return (tl.full((), NO_ID, tl.int64) >> ID_BITS) << ID_BITS


@triton.jit
def cut(keys, units, limit, ID_BITS: tl.constexpr):
    """The greatest key such that `units` of the keys from it up add up to `limit`; below every key if all do not.

    keys: int64 [n], in any order, NO_KEY for none, ids below 2**ID_BITS; units: int64 [n], 0 for none.
    """
    # Four bits per round where 16 sums at once fit the registers.
    DIGIT: tl.constexpr = 4 if keys.shape[0] <= 256 else 1
    VALUE_ROUNDS: tl.constexpr = 32 // DIGIT
    ID_ROUNDS: tl.constexpr = (ID_BITS + DIGIT - 1) // DIGIT
    digits = tl.arange(0, 1 << DIGIT).to(tl.int64)
    fixed = fixed_bits(ID_ROUNDS * DIGIT)
    found = tl.full((), NO_KEY, tl.int64)
    for step in range(VALUE_ROUNDS + ID_ROUNDS):
        found = tl.where(step == VALUE_ROUNDS, found | fixed, found)
        left = tl.where(step < VALUE_ROUNDS, 64 - DIGIT - step * DIGIT, (VALUE_ROUNDS + ID_ROUNDS - 1 - step) * DIGIT)
        shift = tl.full((), 0, tl.int64) + left
        if DIGIT == 1:
            guess = found + (tl.full((), 1, tl.int64) << shift)
            found = tl.where(tl.sum(tl.where(keys >= guess, units, 0)) >= limit, guess, found)
        else:
            guesses = found + (digits << shift)
            sums = tl.sum(tl.where(keys[:, None] >= guesses[None, :], units[:, None], 0), 0)
            found += tl.sum(((sums >= limit) & (digits > 0)).to(tl.int64)) << shift
    return found


@triton.jit
def row_from(key, row, peak, scale, weigh, LINES: tl.constexpr):
    """int64 number, or with `weigh` mass, of a row's tokens from `key` up. `row`: what `load_lines` needs, then S."""
    logits, allowed, vocabulary, width, words, blocks = row
    total = tl.zeros((), tl.int64)
    for block in range(blocks):
        lines = block_lines(block, blocks, LINES)
        tokens, x, _ = load_lines(logits, allowed, lines, vocabulary, width, words)
        inside = (x > float("-inf")) & (pack(x, tokens) >= key)
        units = tl.where(weigh, mass_units(scaled_gap(x, peak, scale)), 1)
        total += tl.sum(tl.where(inside, units, 0))
    return total


@triton.jit
def row_cut(limit, row, peak, scale, weigh, ID_BITS: tl.constexpr, LINES: tl.constexpr):
    """`cut` for a row that fits no registers: reads it 32 + ID_BITS times. For rows whose candidates found no room."""
    fixed = fixed_bits(ID_BITS)
    found = tl.full((), NO_KEY, tl.int64)
    for step in range(32 + ID_BITS):
        found = tl.where(step == 32, found | fixed, found)
        shift = tl.full((), 0, tl.int64) + tl.where(step < 32, 63 - step, 31 + ID_BITS - step)
        guess = found + (tl.full((), 1, tl.int64) << shift)
        found = tl.where(row_from(guess, row, peak, scale, weigh, LINES) >= limit, guess, found)
    return found
