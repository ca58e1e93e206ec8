"""Probabilities that a sample deviates from what was expected by as much as it does; too small ones fail a test."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LEAST = 1e-4  # with fixed seeds a test that passes once passes always


def chi_square(observed: NDArray[np.int64], expected: NDArray[np.float64], least: float = 10.0) -> float:
    """P of a chi-square as large, after neighbouring bins are merged until each expects at least `least`.

    0 if anything was observed where nothing is expected.
    """
    if observed[expected == 0].any():
        return 0.0
    bins: list[tuple[float, float]] = []
    seen, wanted = 0.0, 0.0
    for have, want in zip(observed, expected, strict=True):
        seen, wanted = seen + have, wanted + want
        if wanted >= least:
            bins.append((seen, wanted))
            seen, wanted = 0.0, 0.0
    bins[-1] = (bins[-1][0] + seen, bins[-1][1] + wanted)
    if len(bins) == 1:
        return 1.0
    statistic = sum((have - want) ** 2 / want for have, want in bins)
    return tail_of_chi_square(statistic, len(bins) - 1)


def tail_of_chi_square(statistic: float, freedom: int) -> float:
    """P of a chi-square above `statistic`, by Wilson and Hilferty's approximation."""
    spread = 2 / (9 * freedom)
    return above((((statistic / freedom) ** (1 / 3)) - (1 - spread)) / math.sqrt(spread))


def above(z: float) -> float:
    """P of a standard normal above z."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))


def kolmogorov(sample: NDArray[np.float64], cdf: NDArray[np.float64]) -> float:
    """P of a distance as large between the sorted sample and the distribution with `cdf` at its points."""
    count = len(sample)
    steps = np.arange(1, count + 1) / count
    distance = max(float((steps - cdf).max()), float((cdf - steps + 1 / count).max()))
    scaled = distance * (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count))
    return min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)))
