"""Merges two attention results over different keys, as of a shared prefix and of each sequence's own part."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from topmast_kernels.gpu.common import narrow
from topmast_kernels.gpu.compile_table import Case, meta, name
from topmast_kernels.paged_cache import Attention, check_merge, result_buffers

HEADS_AT_ONCE = 16


@triton.jit
def merge_pairs(
    first,
    first_lse,
    second,
    second_lse,
    out,
    lse,
    heads,
    first_row,
    first_head,
    first_lse_row,
    first_lse_head,
    second_row,
    second_head,
    second_lse_row,
    second_lse_head,
    out_row,
    out_head,
    lse_row,
    lse_head,
    DIM: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Program (row, block of HEADS heads)."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    inside = head < heads
    dims = tl.arange(0, DIM)
    first_log = tl.load(first_lse + row * first_lse_row + head * first_lse_head, mask=inside, other=0.0)
    second_log = tl.load(second_lse + row * second_lse_row + head * second_lse_head, mask=inside, other=0.0)
    both = inside[:, None]
    first_at = first + row * first_row + (head * first_head)[:, None] + dims[None, :]
    second_at = second + row * second_row + (head * second_head)[:, None] + dims[None, :]
    first_out = tl.load(first_at, mask=both, other=0.0).to(tl.float32)
    second_out = tl.load(second_at, mask=both, other=0.0).to(tl.float32)
    # An empty side counts for nothing, whatever its `out` holds.
    first_out = tl.where((first_log == float("-inf"))[:, None], 0.0, first_out)
    second_out = tl.where((second_log == float("-inf"))[:, None], 0.0, second_out)
    higher = tl.maximum(first_log, second_log)
    first_share = tl.where(first_log == float("-inf"), 0.0, tl.exp(first_log - higher))
    second_share = tl.where(second_log == float("-inf"), 0.0, tl.exp(second_log - higher))
    total = first_share + second_share
    empty = total == 0.0
    divisor = tl.where(empty, 1.0, total)
    merged = (first_out * first_share[:, None] + second_out * second_share[:, None]) / divisor[:, None]
    log_sum = tl.where(empty, float("-inf"), higher + tl.log(divisor))
    out_at = out + row * out_row + (head * out_head)[:, None] + dims[None, :]
    tl.store(out_at, narrow(merged, out.dtype.element_ty), mask=both)
    tl.store(lse + row * lse_row + head * lse_head, log_sum, mask=inside)


def merge_attention(
    first: Attention, second: Attention, *, out: Tensor | None = None, lse: Tensor | None = None
) -> Attention:
    """The attention over the keys of `first` and of `second` together, from their outputs and LSEs.

    Outs [rows, heads, dim] bf16, fp16 or fp32, last stride 1; LSEs [rows, heads] fp32, natural log, -inf = saw no key.
    `out` may be first.out: a program reads what it overwrites. Swapping the two gives the same bits. Launches: 1.
    Bytes: three outs and three LSEs. Nothing is allocated when out and lse are given.
    """
    check_merge(first, second)
    result = result_buffers(first.out, out, lse)
    rows, heads, dim = first.out.shape
    if rows == 0:
        return result
    merge_pairs[(rows, triton.cdiv(heads, HEADS_AT_ONCE))](
        *first, *second, *result, heads,
        *first.out.stride()[:2], *first.lse.stride(), *second.out.stride()[:2], *second.lse.stride(),
        *result.out.stride()[:2], *result.lse.stride(),
        DIM=dim, HEADS=HEADS_AT_ONCE, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return result


def compile_cases() -> Iterator[Case]:
    """16-bit results, and fp32 results merged into bf16."""
    lse = meta((64, 32), torch.float32)
    for dtype, dim in ((torch.bfloat16, 128), (torch.float32, 64)):
        part = Attention(meta((64, 32, dim), dtype), lse)
        out = meta((64, 32, dim), torch.bfloat16)
        yield Case(f"{name(dtype)} dim {dim}", partial(merge_attention, part, part, out=out), wide=("merge_pairs",))
