"""Random numbers that belong to (seed, position, stream, id) and to nothing else: not to a row, a batch or a call.

Philox4x32-10 (Salmon et al., 2011), key = the request's 64-bit seed, counter = (position, id, stream, 0). Streams keep
the draws of a token, of a block and of a line apart, and must keep those of a draft model apart.
"""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels.gpu.common import LN_2

TOKEN_STREAM = tl.constexpr(0)
BLOCK_STREAM = tl.constexpr(1)
LINE_STREAM = tl.constexpr(2)


@triton.jit
def words(seed, position, stream: tl.constexpr, ids):
    """The first two uint32 words for int64 `seed`, int32 `position` (scalars) and int32 `ids` (any shape)."""
    which = ids * 0 + stream
    first, second, _, _ = tl.philox(seed, ids * 0 + position, ids, which, ids * 0)
    return first, second


@triton.jit
def exponential(first, second):
    """Exponential fp32 > 0 and finite: -ln(1 - u), u = (first + 0.5) / 2**32.

    Below u = 2**-20, where neighbouring values of `first` lie far apart, `second` extends u to 64 bits: the smallest
    draws decide which token wins, and 32 bits would never let one win that lies more than 22 nats behind.
    """
    u = tl.where(
        first < 4096,
        first.to(tl.float32) * 2.0**-32 + (second.to(tl.float32) + 0.5) * 2.0**-64,
        (first.to(tl.float32) + 0.5) * 2.0**-32,
    )
    rest = ((first ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * 2.0**-32  # 1 - u without cancellation: never 0
    series = u * (1.0 + u * (0.5 + u * (1.0 / 3.0 + u * 0.25)))
    return tl.where(u < 2.0**-7, series, -tl.log2(rest) * LN_2)


@triton.jit
def gumbel2(seed, position, stream: tl.constexpr, ids):
    """Gumbel noise in bits, -log2(exponential), to be added to log2 weights; fp32, shape of `ids`.

    The id with the greatest sum is a draw from the weights.
    """
    first, second = words(seed, position, stream, ids)
    return -tl.log2(exponential(first, second))
