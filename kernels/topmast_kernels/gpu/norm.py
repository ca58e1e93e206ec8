"""Adds a layer's output to the residual stream and normalises the sum by its root mean square, in one pass.

One program per row. The block and the number of warps depend on the width only: a block that grew with the number of
rows would change the order of the sum, and with it the bits of a row, when neighbours come or go.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import triton
import triton.language as tl
from torch import Tensor, bfloat16, empty_like

from topmast_kernels.gpu.common import narrow
from topmast_kernels.gpu.compile_table import FLOATS, Case, meta, name
from topmast_kernels.twin.norm import Normed, check_norm

WIDEST = 32768  # fp32 values that 32 warps hold in registers


@triton.jit
def _rms_norm(
    x,
    residual,
    weight,
    out,
    new_residual,
    x_stride,
    residual_stride,
    out_stride,
    new_residual_stride,
    width,
    eps,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + row * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        value += tl.load(residual + row * residual_stride + at, mask=inside, other=0.0).to(tl.float32)
        rounded = narrow(value, new_residual.dtype.element_ty)
        tl.store(new_residual + row * new_residual_stride + at, rounded, mask=inside)
        value = rounded.to(tl.float32)  # what the next layer will see, so that fusing changes no bit
    mean_square = tl.sum(value * value, axis=0) / width
    scale = 1.0 / tl.sqrt_rn(mean_square + eps)
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + at, narrow(value * scale * factor, out.dtype.element_ty), mask=inside)


def warps_for(block: int) -> int:
    """8 to 32 values per thread, which keeps rows of a usual width in registers and loads 16 bytes wide."""
    return min(max(block // 256, 1), 8) if block <= 8192 else block // 1024


def rms_norm(
    x: Tensor,
    weight: Tensor,
    *,
    eps: float,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    new_residual: Tensor | None = None,
) -> Normed:
    """`s = x + residual` rounded to the residual's dtype, then `s / sqrt(mean(s ** 2) + eps) * weight` in fp32.

    x, residual: [rows, width], any row stride, fp32/fp16/bf16; residual=None normalises x itself. weight: [width].
    out (like x) and new_residual (like residual) may be x and residual themselves. One launch; each row is read and
    written once. The bits of a row do not depend on the other rows, and equal those of an addition and then a norm.
    """
    rows, width = x.shape
    check_norm(x, weight, residual, out, new_residual)
    if width > WIDEST:
        raise ValueError(f"rows of {width} values do not fit one program; at most {WIDEST}")
    out = empty_like(x) if out is None else out
    if residual is not None and new_residual is None:
        new_residual = empty_like(residual)
    if rows:
        block = triton.next_power_of_2(width)
        _rms_norm[(rows,)](
            x,
            residual,
            weight,
            out,
            new_residual,
            x.stride(0),
            residual.stride(0) if residual is not None else 0,
            out.stride(0),
            new_residual.stride(0) if new_residual is not None else 0,
            width,
            eps,
            BLOCK=block,
            num_warps=warps_for(block),
            enable_fp_fusion=False,
        )
    return Normed(out, x if new_residual is None else new_residual)


def compile_cases() -> Iterator[Case]:
    for dtype, width in [*((dtype, 4096) for dtype in FLOATS), (bfloat16, 576), (bfloat16, 8192)]:
        x, weight = meta((8, width), dtype), meta((width,), dtype)
        call = partial(rms_norm, x, weight, eps=1e-5, residual=x)
        yield Case(f"{name(dtype)} {width} with residual", call, wide=("_rms_norm",))
    yield Case("bfloat16 4096", partial(rms_norm, meta((8, 4096), bfloat16), meta((4096,), bfloat16), eps=1e-5))
