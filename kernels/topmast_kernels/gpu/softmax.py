"""Probabilities of each row, for those who really want all of them.

Which of two kernels runs depends on the width of a row alone, so that a row has the same bits in every batch. Up to a
width of 16384 one program holds a row: one launch, one read, one write. A longer row is read in blocks by many
programs and then, while it is still in the cache, scaled by as many: two launches.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from topmast_kernels import partition
from topmast_kernels.gpu.arguments import FLOATS, check_allowed, check_logits, check_rows
from topmast_kernels.gpu.common import narrow
from topmast_kernels.gpu.compile_table import Case, meta, name
from topmast_kernels.gpu.greedy import first_of_blocks
from topmast_kernels.gpu.lines import load_lines, row_of
from topmast_kernels.gpu.order import NO_ID
from topmast_kernels.gpu.scaling import row_scale, scaled_gap
from topmast_kernels.gpu.stats import PINNED, combine, flags_of, launch, row_flags
from topmast_kernels.gpu.workspace import Workspace

LONGEST_RESIDENT = 16384  # tokens that one program holds in registers without spilling, whatever the options
SLICE = 4096  # tokens of one program that scales


@triton.jit
def _resident_kernel(
    logits,
    allowed,
    temperature,
    out,
    flags,
    logits_stride,
    allowed_stride,
    out_stride,
    vocabulary,
    width,
    words,
    LINES: tl.constexpr,
):
    row = tl.program_id(0)
    if allowed is not None:
        allowed = row_of(allowed, row, allowed_stride)
    scale, greedy = row_scale(temperature, row)
    lines = tl.arange(0, LINES)
    tokens, x, nan = load_lines(row_of(logits, row, logits_stride), allowed, lines, vocabulary, width, words)
    peak = tl.max(x)
    if greedy:
        x = tl.where(tokens == tl.min(tl.where(x == peak, tokens, NO_ID)), x, float("-inf"))
    weights = tl.exp2(scaled_gap(x, peak, scale))
    mass = tl.sum(weights)
    share = weights / tl.where(mass > 0.0, mass, 1.0)
    tl.store(row_of(out, row, out_stride) + tokens, narrow(share, out.dtype.element_ty), mask=tokens < width)
    if flags is not None:
        tl.store(flags + row, flags_of(tl.max(nan.to(tl.int32)), peak))


@triton.jit
def _scale_kernel(
    logits,
    allowed,
    temperature,
    out,
    flags,
    maxima,
    sums,
    nans,
    ids,
    logits_stride,
    allowed_stride,
    out_stride,
    vocabulary,
    width,
    words,
    blocks,
    slices,
    LINES: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    # The last slices were read last and are the likeliest to be in the cache still.
    index = tl.num_programs(0) - 1 - tl.program_id(0)
    row = index // slices
    if allowed is not None:
        allowed = row_of(allowed, row, allowed_stride)
    scale, greedy = row_scale(temperature, row)
    peak, mass, peaks, _ = combine(row_of(maxima, row, blocks), row_of(sums, row, blocks), blocks, scale, BLOCKS)
    lines = index % slices * LINES + tl.arange(0, LINES)
    tokens, x, _ = load_lines(row_of(logits, row, logits_stride), allowed, lines, vocabulary, width, words)
    if ids is not None:  # noqa: SIM102 (known when compiled; the other one is not)
        if greedy:
            first = first_of_blocks(row_of(ids, row, blocks), peaks, peak, blocks, BLOCKS)
            x = tl.where(tokens == first, x, float("-inf"))
            mass = 1.0
    share = tl.exp2(scaled_gap(x, peak, scale)) / tl.where(mass > 0.0, mass, 1.0)
    tl.store(row_of(out, row, out_stride) + tokens, narrow(share, out.dtype.element_ty), mask=tokens < width)
    if flags is not None:  # noqa: SIM102
        if index % slices == 0:
            tl.store(flags + row, row_flags(row_of(nans, row, blocks), peak, blocks, BLOCKS))


def softmax(
    logits: Tensor,
    *,
    temperature: Tensor | None = None,
    allowed: Tensor | None = None,
    vocabulary: int | None = None,
    out: Tensor | None = None,
    flags: Tensor | None = None,
    workspace: Workspace | None = None,
    block: int | None = None,
    walk: int | None = None,
) -> Tensor:
    """Row softmax of logits / T in float32, rounded once to the dtype of `out`.

    logits: float32, float16 or bfloat16 [rows, width], any row stride; the first `vocabulary` of the width are tokens,
    and the probability of the others is 0. temperature: float32 [rows], None for 1; a row below 1e-5 has all of its
    mass on its greatest logit, as at T -> 0. allowed: int32 [rows, words], bit set = allowed, beyond the words
    forbidden. out: float32, float16 or bfloat16 [rows, width], any row stride, like `logits` for None; may be `logits`
    itself. flags: int32 [rows] to be filled: 1 NaN seen, 2 nothing allowed, 4 +inf seen.

    NaN counts as -inf; a row of only -inf gives zeros; those at +inf share the mass. Bitwise independent of the number
    of rows. workspace: for vocabularies of more than 16384 tokens, so that nothing is allocated. block: forces the
    kernel for long rows with blocks of that size, for tests. walk: as in `stats`.
    """
    vocabulary = check_logits(logits, vocabulary)
    check_rows("temperature", temperature, torch.float32, logits)
    check_rows("flags", flags, torch.int32, logits)
    words, allowed_stride = check_allowed(allowed, logits)
    rows, width = logits.shape
    if out is None:
        out = torch.empty((rows, width), dtype=logits.dtype, device=logits.device)
    if out.shape != logits.shape or out.dtype not in FLOATS or (width > 1 and out.stride(1) != 1):
        raise ValueError(f"out is {out.dtype} {list(out.shape)}; give floats {[rows, width]} with rows in one piece")
    if rows == 0:
        return out
    strides = (logits.stride(0), allowed_stride, out.stride(0), vocabulary, width, words)
    if block is None and width <= LONGEST_RESIDENT:
        lines = max(1, triton.next_power_of_2(width) // partition.LINE)
        _resident_kernel[(rows,)](
            *(logits, allowed, temperature, out, flags, *strides),
            LINES=lines,
            num_warps=min(32, max(4, lines // 16)),
            enable_fp_fusion=False,
        )
        return out
    block = partition.checked_block(vocabulary, block)
    blocks = partition.block_count(vocabulary, block)
    if workspace is None:
        workspace = Workspace.make(rows, vocabulary, device=logits.device, block=block)
    workspace.check(rows, blocks)
    partials = workspace.stats
    if temperature is None:
        partials = partials._replace(ids=None)
    launch(logits, allowed, temperature, vocabulary, partials, block, walk, only_greedy_ids=True)
    slices = -(-width // min(block, SLICE))
    _scale_kernel[(rows * slices,)](
        *(logits, allowed, temperature, out, flags, *partials[:4], *strides),
        blocks,
        slices,
        LINES=min(block, SLICE) // partition.LINE,
        BLOCKS=triton.next_power_of_2(blocks),
        **PINNED,
    )
    return out


def compile_cases() -> Iterator[Case]:
    for dtype in FLOATS:
        for width, kernel in ((LONGEST_RESIDENT, "_resident_kernel"), (128256, "_scale_kernel")):
            yield Case(f"{name(dtype)} {width}", partial(softmax, meta((8, width), dtype)), wide=(kernel,))
    logits, rows = meta((8, 128256), torch.float32), meta((8,), torch.float32)
    mask, flags = meta((8, 4008), torch.int32), meta((8,), torch.int32)
    for width in (LONGEST_RESIDENT, 128256):
        call = partial(softmax, logits[:, :width], temperature=rows, allowed=mask, flags=flags)
        yield Case(f"all options {width}", call)
