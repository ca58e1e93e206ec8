"""Rounding to int8 and fp8 e4m3 with a scale per group, so that value = stored number * scale."""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels.gpu.common import INTERPRET

INT8_LARGEST = tl.constexpr(127.0)
FP8_LARGEST = tl.constexpr(448.0)
SMALLEST_PEAK = tl.constexpr(2.0**-100)  # below it a group is stored as zeros: its scale would be flushed


@triton.jit
def scale_of(peak, dtype: tl.constexpr):
    """fp32 scale for groups whose largest magnitude is `peak`: 0 for groups of zeros, NaN for a peak of NaN."""
    largest = INT8_LARGEST if dtype == tl.int8 else FP8_LARGEST
    return tl.where(peak < SMALLEST_PEAK, 0.0, tl.div_rn(peak, tl.zeros_like(peak) + largest))


@triton.jit
def quantise(x, scale, dtype: tl.constexpr):
    """fp32 `x / scale` to the nearest number of `dtype`, ties to even; zeros where the scale is 0 or NaN."""
    usable = scale > 0.0
    ratio = tl.where(usable, tl.div_rn(x, tl.where(usable, scale, 1.0)), 0.0)
    if dtype == tl.int8:
        ratio = tl.minimum(tl.maximum(ratio, -INT8_LARGEST), INT8_LARGEST)
        return ((ratio + 12582912.0) - 12582912.0).to(tl.int8)  # 1.5 * 2**23: the addition rounds to integers
    ratio = tl.minimum(tl.maximum(ratio, -FP8_LARGEST), FP8_LARGEST)
    if INTERPRET:
        ratio = _round_e4m3(ratio)  # its own conversion forgets the carry out of the mantissa
    return ratio.to(dtype)


@triton.jit
def _round_e4m3(x):
    """fp32 on the grid of e4m3: 4 significant bits, and steps of 2**-9 below 2**-6."""
    bits = x.to(tl.uint32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & 0xFFF00000).to(tl.float32, bitcast=True)
    small = (x + 24576.0) - 24576.0  # 1.5 * 2**14, whose last bit is worth 2**-9
    return tl.where(tl.abs(x) < 0.015625, small, normal)
