"""Temperature, applied in one way by every kernel, so that all of them agree to the bit.

The maximum is subtracted first and the difference is scaled: scaling both and then subtracting loses four digits at
logits of 1e4.
"""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels.gpu.common import LOG2_E

COLDEST = tl.constexpr(1e-5)  # below it a row takes its greatest logit
HOTTEST = tl.constexpr(1e30)  # above it a row is uniform anyway
LARGEST = tl.constexpr(3.4028234663852886e38)  # of fp32


@triton.jit
def row_scale(temperature, row):
    """(log2(e) / T, whether the row is greedy) of a row; `temperature` fp32 [rows] or None for T = 1 in all of them.

    A greedy row, T < 1e-5 or not a number, has the scale of T = 1, under which its log-probabilities are given.
    """
    given = 1.0
    greedy = False
    if temperature is not None:
        given = tl.load(temperature + row)
        greedy = (given >= COLDEST) == 0
        given = tl.where(greedy, 1.0, tl.minimum(given, HOTTEST))
    return tl.div_rn(tl.full((), LOG2_E, tl.float32), given + tl.zeros((), tl.float32)), greedy


@triton.jit
def scaled_gap(x, peak, scale):
    """log2 of the weight of `x` <= `peak`, relative to the peak's own: <= 0, and -inf for -inf whatever the peak.

    +inf counts as the largest number, so that under a peak of +inf those that have it share the mass alone.
    """
    return (tl.minimum(x, LARGEST) - tl.minimum(tl.maximum(peak, -LARGEST), LARGEST)) * scale
