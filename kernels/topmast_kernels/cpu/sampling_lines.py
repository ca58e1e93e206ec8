"""A row of logits by lines of 64: the greatest of each line and its mass, which is all that most draws need to know.

A row is [lines, 64]. Tokens are ordered by an integer key with the order of their logits; of equal ones the lower id
comes first. Weights are 2**bits with bits <= 0 counted from the row's greatest logit, in float64. Loops are over whole
lines because those become vector code; a line is always computed by the same code, so its bits depend on nothing else.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.jit import kernel

LINE = 64  # as in topmast_kernels.partition: noise belongs to lines
NOWHERE = -2139095041  # the key of -inf
_LARGEST = float(np.finfo(np.float32).max)
_SIGNLESS = 0x7FFFFFFF
_INFINITY = 0x7F800000
_LEAST_BITS = -1000.0  # less weighs nothing; 2**-1000 is still far from float64's limit
_LN_2 = math.log(2.0)
_SERIES = tuple(_LN_2**n / math.factorial(n) for n in range(12))  # of 2**x: 7e-15 for |x| <= 1/2


@kernel()
def order_key(logit: float) -> int:
    """A number of 32 bits with the order of float32 logits; both zeros are 0."""
    bits = np.float32(logit).view(np.int32)
    key = np.int32(bits ^ ((bits >> 31) & _SIGNLESS))
    return int(np.int64(0 if key == -1 else key))


@kernel()
def from_key(key: np.int32) -> float:
    """The logit with this key; infinities count as the largest numbers, as everywhere in weights."""
    logit = np.int32(key ^ ((key >> 31) & _SIGNLESS)).view(np.float32)
    return min(max(np.float64(logit), -_LARGEST), _LARGEST)


@kernel()
def bits_below(logit: float, peak: float, scale: float) -> float:
    """log2 of a logit's weight relative to the peak's: <= 0, and -inf for -inf. `scale` is log2(e) / temperature."""
    return (min(np.float64(logit), _LARGEST) - peak) * scale


@kernel()
def weight(bits: float) -> float:
    """2**bits for bits <= 0 within 1e-14 of itself; 0 below 2**-1000. Free of calls and branches, for vectors."""
    some = max(bits, _LEAST_BITS)
    whole = math.floor(some + 0.5)
    x = some - whole
    value = _SERIES[11]
    for n in range(10, -1, -1):
        value = value * x + _SERIES[n]
    power = np.int64((np.int64(np.int32(whole)) + 1023) << 52).view(np.float64)
    return value * power if bits > _LEAST_BITS else 0.0


@kernel()
def survey(x: NDArray[np.float32], best: NDArray[np.int32]) -> int:
    """Put the greatest key of each line into best [lines]; the row's greatest, or less than any with NaN in it."""
    top, widest = NOWHERE, 0
    for line in range(len(x)):
        own, wide = _survey_line(x[line])
        best[line] = own
        top, widest = max(top, own), max(widest, wide)
    return NOWHERE - 1 if widest > _INFINITY else top


@kernel()
def _survey_line(x: NDArray[np.float32]) -> tuple[int, int]:
    """The greatest key, and the greatest bits without their sign."""
    best, widest = np.int32(-(2**31)), np.int32(0)
    for i in range(LINE):
        bits = np.float32(x[i]).view(np.int32)
        best = max(best, np.int32(bits ^ ((bits >> 31) & _SIGNLESS)))
        widest = max(widest, np.int32(bits & _SIGNLESS))
    return int(np.int64(0 if best == -1 else best)), int(np.int64(widest))


@kernel()
def weigh(x: NDArray[np.float32], peak: float, scale: float, masses: NDArray[np.float64]) -> float:
    """Put the sum of weights of each line into masses [lines]; their sum."""
    total = 0.0
    for line in range(len(x)):
        masses[line] = _weigh_line(x[line], peak, scale)
        total += masses[line]
    return total


@kernel()
def _weigh_line(x: NDArray[np.float32], peak: float, scale: float) -> float:
    total = 0.0
    for i in range(LINE):
        total += weight(bits_below(x[i], peak, scale))
    return total
