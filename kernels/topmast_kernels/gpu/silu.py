"""The gate of a feed-forward layer: silu(gate) * up, from the fused product of both projections."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import triton
import triton.language as tl
from torch import Tensor

from topmast_kernels.gpu.common import LOG2_E, narrow
from topmast_kernels.gpu.compile_table import FLOATS, Case, meta, name
from topmast_kernels.twin.silu import check_silu

BLOCK = 1024  # 8 values of 2 bytes for each of 128 threads: one 16-byte load of each half


@triton.jit
def _silu_mul(gate_up, out, gate_up_stride, out_stride, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(gate_up + row * gate_up_stride + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * gate_up_stride + width + at, mask=inside, other=0.0).to(tl.float32)
    # exp2 overflows to infinity below -88, where the quotient is then -0: the right answer in fp32.
    value = gate / (1.0 + tl.exp2(-gate * LOG2_E)) * up
    tl.store(out + row * out_stride + at, narrow(value, out.dtype.element_ty), mask=inside)


def silu_mul(gate_up: Tensor, *, out: Tensor | None = None, block: int = BLOCK) -> Tensor:
    """`silu(gate) * up` in fp32, rounded once.

    gate_up: [rows, 2 * width], gate first, any row stride, fp32/fp16/bf16. out: [rows, width], by default of the same
    dtype. One launch; reads 2 and writes 1 value per output.
    """
    rows, both = gate_up.shape
    width = both // 2
    check_silu(gate_up, out)
    out = gate_up.new_empty((rows, width)) if out is None else out
    if rows and width:
        grid = (rows, triton.cdiv(width, block))
        strides = (gate_up.stride(0), out.stride(0))
        _silu_mul[grid](gate_up, out, *strides, width, BLOCK=block, num_warps=4, enable_fp_fusion=False)
    return out


def compile_cases() -> Iterator[Case]:
    for dtype in FLOATS:
        yield Case(name(dtype), partial(silu_mul, meta((8, 2 * 14336), dtype)), wide=("_silu_mul",))
