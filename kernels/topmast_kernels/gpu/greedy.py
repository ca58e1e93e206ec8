"""The greatest logit of each row with its log-probability: one launch, one read of the logits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from topmast_kernels import partition
from topmast_kernels.gpu.arguments import FLOATS, check_allowed, check_fallback, check_logits, check_out
from topmast_kernels.gpu.common import LN_2, LOG2_E
from topmast_kernels.gpu.compile_table import Case, meta, name
from topmast_kernels.gpu.lines import row_of
from topmast_kernels.gpu.order import NO_ID
from topmast_kernels.gpu.stats import PINNED, combine, programs_per_row, row_flags, store_blocks
from topmast_kernels.gpu.workspace import Workspace, arrive


class Greedy(NamedTuple):
    """One entry per row; in a row where nothing is allowed the fallback token, -inf and -inf."""

    tokens: Tensor  # int32
    logprobs: Tensor  # float32, natural, of the token
    lse: Tensor  # float32, log-sum-exp of the allowed logits
    flags: Tensor  # int32: 1 NaN seen, 2 nothing allowed, 4 +inf seen

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> Greedy:
        kinds = (torch.int32, torch.float32, torch.float32, torch.int32)
        return cls(*(torch.empty(rows, dtype=kind, device=device) for kind in kinds))


@triton.jit
def first_of_blocks(ids, peaks, peak, blocks, BLOCKS: tl.constexpr):
    """Lowest id with a row's maximum, from the lowest of each block."""
    at = tl.arange(0, BLOCKS)
    candidates = tl.load(ids + at, mask=at < blocks, other=NO_ID, cache_modifier=".cg")
    return tl.min(tl.where(peaks == peak, candidates, NO_ID))


@triton.jit(do_not_specialize=["programs", "fallback"])
def _greedy_kernel(
    logits,
    allowed,
    tokens,
    logprobs,
    lse,
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
    store_blocks(
        *(logits, allowed, LOG2_E, maxima, sums, nans, ids, None, True),
        *(tl.program_id(0) % programs, programs, blocks, vocabulary, width, words, WALK, LINES),
    )
    if arrive(arrivals + row, programs):
        peak, mass, peaks, _ = combine(maxima, sums, blocks, LOG2_E, BLOCKS)
        token = first_of_blocks(ids, peaks, peak, blocks, BLOCKS)
        nothing = peak == float("-inf")
        log_mass = tl.log2(tl.where(nothing, 1.0, mass)) * LN_2
        tl.store(tokens + row, tl.where(nothing, fallback, token))
        tl.store(logprobs + row, tl.where(nothing, peak, -log_mass))
        tl.store(lse + row, peak + log_mass)
        tl.store(flags + row, row_flags(nans, peak, blocks, BLOCKS))


def greedy(
    logits: Tensor,
    *,
    allowed: Tensor | None = None,
    vocabulary: int | None = None,
    fallback: int = 0,
    out: Greedy | None = None,
    workspace: Workspace | None = None,
    block: int | None = None,
    walk: int | None = None,
) -> Greedy:
    """The token with the greatest logit of each row (of equal ones the lowest id), its log-probability, and the LSE.

    logits: float32, float16 or bfloat16 [rows, width], any row stride; the first `vocabulary` of the width are tokens.
    allowed: int32 [rows, words], bit set = allowed, beyond the words forbidden. fallback: the token of a row in which
    nothing is allowed. NaN counts as -inf; tokens at +inf share all of the mass. With `out` and `workspace` nothing is
    allocated. block, walk: as in `stats`.
    """
    vocabulary = check_logits(logits, vocabulary)
    check_fallback(fallback, vocabulary)
    words, allowed_stride = check_allowed(allowed, logits)
    block = partition.checked_block(vocabulary, block)
    rows, blocks = logits.shape[0], partition.block_count(vocabulary, block)
    out = Greedy.empty(rows, logits.device) if out is None else out
    check_out(out, rows)
    if workspace is None:
        workspace = Workspace.make(rows, vocabulary, device=logits.device, block=block)
    workspace.check(rows, blocks)
    if rows == 0:
        return out
    programs, walk = programs_per_row(rows, blocks, walk)
    _greedy_kernel[(rows * programs,)](
        logits,
        allowed,
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
    for dtype in FLOATS:
        yield Case(name(dtype), partial(greedy, meta((8, 128256), dtype)), wide=("_greedy_kernel",))
    mask = meta((512, 4008), torch.int32)
    masked = partial(greedy, meta((512, 128256), torch.bfloat16), allowed=mask)
    yield Case("masked, several blocks per program", masked, wide=("_greedy_kernel",))
