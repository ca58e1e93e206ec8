"""Log-probabilities of chosen tokens with their ranks, and of the best tokens, in one launch and one read.

No [rows, vocabulary] tensor is made. The best tokens come out of the maxima of the columns of each block: the best of
all columns is the best token, and when it is taken, its column's next takes its place. So nothing is sorted, no list
can overflow, and the order is exact.
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
from topmast_kernels.gpu.arguments import FLOATS, check_allowed, check_logits, check_out, check_rows
from topmast_kernels.gpu.common import LN_2
from topmast_kernels.gpu.compile_table import Case, meta, name
from topmast_kernels.gpu.lines import LINE, block_lines, load_lines, load_tokens, row_of
from topmast_kernels.gpu.order import NO_ID, NO_KEY, pack, unpack_id, unpack_value
from topmast_kernels.gpu.scaling import row_scale, scaled_gap
from topmast_kernels.gpu.stats import PINNED, combine, programs_per_row, row_flags, store_block
from topmast_kernels.gpu.workspace import Workspace, arrive

MOST = 20  # best tokens per row; each takes a step of its own


class Logprobs(NamedTuple):
    """Natural logarithms; in rows where nothing is allowed all are -inf."""

    logprobs: Tensor  # float32 [rows], of the chosen token; -inf for an id that is no token
    ranks: Tensor  # int32 [rows], 1 for the first in the order; 0 for an id that is no token
    lse: Tensor  # float32 [rows], log-sum-exp of logits / T
    flags: Tensor  # int32 [rows]: 1 NaN seen, 2 nothing allowed, 4 +inf seen
    top_ids: Tensor  # int32 [rows, n], value descending, id ascending; -1 where fewer than n tokens are above -inf
    top_logprobs: Tensor  # float32 [rows, n]

    @classmethod
    def empty(cls, rows: int, top_n: int, device: torch.device) -> Logprobs:
        flat = [torch.empty(rows, dtype=kind, device=device) for kind in (torch.float32, torch.int32)]
        more = [torch.empty(rows, dtype=kind, device=device) for kind in (torch.float32, torch.int32)]
        best = [torch.empty((rows, top_n), dtype=kind, device=device) for kind in (torch.int32, torch.float32)]
        return cls(*flat, *more, *best)


@triton.jit
def store_best(
    logits, allowed, keys, scale, peak, log_mass, ids, logprobs, blocks, vocabulary, words, TOP, LINES, SLOTS
):
    """Stores the first TOP tokens of the order from the best key of each of a row's columns."""
    at = tl.arange(0, SLOTS)
    best_of = tl.load(keys + at, mask=at < blocks * LINE, other=NO_KEY, cache_modifier=".cg")
    for place in range(TOP):
        best = tl.max(best_of)
        value, token = unpack_value(best), unpack_id(best)
        some = value > float("-inf")
        tl.store(ids + place, tl.where(some, token, -1))
        tl.store(logprobs + place, tl.where(some, scaled_gap(value, peak, scale) * LN_2 - log_mass, float("-inf")))
        block, column = token // LINE % blocks, token % LINE
        tokens = block_lines(block, blocks, LINES) * LINE + column
        key = pack(load_tokens(logits, allowed, tokens, vocabulary, words), tokens)
        best_of = tl.where(at == block * LINE + column, tl.max(tl.where(key < best, key, NO_KEY)), best_of)


@triton.jit(do_not_specialize=["programs"])
def _logprobs_kernel(
    logits,
    allowed,
    temperature,
    chosen,
    logprobs,
    ranks,
    lse,
    flags,
    top_ids,
    top_logprobs,
    arrivals,
    maxima,
    sums,
    nans,
    counts,
    keys,
    logits_stride,
    allowed_stride,
    vocabulary,
    width,
    words,
    blocks,
    programs,
    TOP: tl.constexpr,
    WALK: tl.constexpr,
    LINES: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    row = tl.program_id(0) // programs
    logits = row_of(logits, row, logits_stride)
    maxima, sums, nans = row_of(maxima, row, blocks), row_of(sums, row, blocks), row_of(nans, row, blocks)
    counts = row_of(counts, row, blocks)
    if allowed is not None:
        allowed = row_of(allowed, row, allowed_stride)
    if TOP > 0:
        keys = row_of(keys, row, blocks * LINE)
    scale, _greedy = row_scale(temperature, row)
    token = tl.load(chosen + row)
    known = (token >= 0) & (token < vocabulary)
    value = load_tokens(logits, allowed, tl.where(known, token, 0), vocabulary, words)
    for step in range(WALK):
        block = tl.program_id(0) % programs + step * programs
        if block < blocks:
            lines = block_lines(block, blocks, LINES)
            tokens, x, nan = load_lines(logits, allowed, lines, vocabulary, width, words)
            store_block(x, tokens, nan, scale, block, maxima, sums, nans, None, None, False)
            ahead = (x > value) | ((x == value) & (tokens < token))
            tl.store(counts + block, tl.sum(ahead.to(tl.int32)))
            if TOP > 0:
                best = tl.max(x, 0)
                ids = tl.min(tl.where(x == best[None, :], tokens, NO_ID), 0)
                tl.store(keys + block * LINE + tl.arange(0, LINE), pack(best, ids))
    if arrive(arrivals + row, programs):
        peak, mass, _maxima, _sums = combine(maxima, sums, blocks, scale, BLOCKS)
        log_mass = tl.log2(tl.where(mass > 0.0, mass, 1.0)) * LN_2
        at = tl.arange(0, BLOCKS)
        ahead = tl.sum(tl.load(counts + at, mask=at < blocks, other=0, cache_modifier=".cg"))
        logprob = scaled_gap(value, peak, scale) * LN_2 - log_mass
        tl.store(logprobs + row, tl.where(known, logprob, float("-inf")))
        tl.store(ranks + row, tl.where(known, ahead + 1, 0))
        if temperature is None:
            tl.store(lse + row, peak + log_mass)
        else:
            tl.store(lse + row, peak * (scale * LN_2) + log_mass)
        tl.store(flags + row, row_flags(nans, peak, blocks, BLOCKS))
        if TOP > 0:
            store_best(
                *(logits, allowed, keys, scale, peak, log_mass),
                *(row_of(top_ids, row, TOP), row_of(top_logprobs, row, TOP)),
                *(blocks, vocabulary, words, TOP, LINES, BLOCKS * LINE),
            )


def logprobs(
    logits: Tensor,
    tokens: Tensor,
    *,
    top_n: int = 0,
    temperature: Tensor | None = None,
    allowed: Tensor | None = None,
    vocabulary: int | None = None,
    out: Logprobs | None = None,
    workspace: Workspace | None = None,
    block: int | None = None,
    walk: int | None = None,
) -> Logprobs:
    """Log-probability and rank of one token of each row, and ids and log-probabilities of its `top_n` <= 20 best.

    logits: float32, float16 or bfloat16 [rows, width], any row stride; the first `vocabulary` of the width are tokens.
    tokens: int32 [rows]; an id that is no token, as -1 where none is asked for, gets -inf and rank 0. temperature:
    float32 [rows], None or below 1e-5 for 1. allowed: int32 [rows, words], bit set = allowed, beyond the words
    forbidden. NaN counts as -inf; tokens at +inf share the mass. A prompt's log-probabilities are those of its
    positions' rows, in chunks of any size. With `out` (`Logprobs.empty`) and `workspace` (made with top_n=True where
    top_n > 0) nothing is allocated. block, walk: as in `stats`.
    """
    vocabulary = check_logits(logits, vocabulary)
    check_rows("tokens", tokens, torch.int32, logits)
    check_rows("temperature", temperature, torch.float32, logits)
    words, allowed_stride = check_allowed(allowed, logits)
    if not 0 <= top_n <= MOST:
        raise ValueError(f"top_n={top_n}: give 0 to {MOST}")
    block = partition.checked_block(vocabulary, block)
    rows, blocks = logits.shape[0], partition.block_count(vocabulary, block)
    out = Logprobs.empty(rows, top_n, logits.device) if out is None else out
    check_out(out, rows)
    if out.top_ids.shape != (rows, top_n) or out.top_logprobs.shape != (rows, top_n):
        raise ValueError(
            f"out is for top_n={out.top_ids.shape[-1]}; make one with Logprobs.empty({rows}, {top_n}, ...)"
        )
    if workspace is None:
        workspace = Workspace.make(rows, vocabulary, device=logits.device, block=block, top_n=top_n > 0)
    workspace.check(rows, blocks, top_n=top_n > 0)
    if rows == 0:
        return out
    programs, walk = programs_per_row(rows, blocks, walk)
    _logprobs_kernel[(rows * programs,)](
        *(logits, allowed, temperature, tokens, *out),
        *(workspace.arrivals, *workspace.stats[:3], workspace.counts, workspace.keys if top_n else None),
        *(logits.stride(0), allowed_stride, vocabulary, logits.shape[1], words, blocks, programs),
        TOP=top_n,
        WALK=walk,
        LINES=block // partition.LINE,
        BLOCKS=triton.next_power_of_2(blocks),
        **PINNED,
    )
    return out


def compile_cases() -> Iterator[Case]:
    rows = meta((8,), torch.int32)
    for dtype in FLOATS:
        call = partial(logprobs, meta((8, 128256), dtype), rows, top_n=20)
        yield Case(f"{name(dtype)} top 20", call, wide=("_logprobs_kernel",))
    call = partial(logprobs, meta((8, 128256), torch.bfloat16), rows)
    yield Case("chosen tokens only", call, wide=("_logprobs_kernel",))
    call = partial(logprobs, meta((8, 262144), torch.float32), rows, top_n=20)
    yield Case("longest row", call, wide=("_logprobs_kernel",))
    rows, mask, scale = meta((512,), torch.int32), meta((512, 4008), torch.int32), meta((512,), torch.float32)
    logits = meta((512, 128256), torch.bfloat16)
    call = partial(logprobs, logits, rows, top_n=5, temperature=scale, allowed=mask)
    yield Case("all options, several blocks per program", call, wide=("_logprobs_kernel",))
