"""What every kernel here shares: how numbers are widened and rounded, and what the interpreter does differently.

The interpreter truncates where a GPU rounds to bf16, computes bf16 arithmetic wrongly, and has no inline assembly,
no libdevice and no autotuner. So: arithmetic in fp32 only, results through `narrow`, products through `dot`.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

# Read once: Triton, too, decides at import whether a function is compiled or interpreted.
INTERPRET = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """fp32 `x` rounded to nearest even as `dtype`."""
    if INTERPRET and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        # A NaN keeps its upper bits, which the addition could have carried into infinity.
        bits = tl.where(x == x, rounded, bits | 0x400000)
        return (bits & 0xFFFF0000).to(tl.float32, bitcast=True).to(dtype)
    return x.to(dtype)


@triton.jit
def dot(a, b, acc):
    """`acc` + a @ b with fp32 accumulation; 16-bit operands use the tensor cores."""
    if INTERPRET:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    return tl.dot(a, b, acc)


@triton.jit
def exp2_gap(a, b):
    """2 ** (a - b) for a <= b; 0 where both are -inf, because nothing has no share of nothing."""
    return tl.where(b == float("-inf"), 0.0, tl.exp2(a - b))
