"""What the vocabulary-wide operations mean, one row at a time, in NumPy: values in float32, masses in float64.

Order: penalties and bias, then allowed ids, then greedy or temperature, top-k, top-p, min-p. The total order is value
descending, id ascending, on the float32 values before temperature, which cannot change an order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ids = NDArray[np.int64]

NAN, NOTHING, INFINITE = 1, 2, 4
COLDEST = 1e-5  # a lower temperature means greedy


@dataclass(frozen=True)
class Filters:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def greedy(self) -> bool:
        return self.temperature < COLDEST or self.top_k == 1 or self.top_p <= 0.0

    def active(self, vocabulary: int) -> bool:
        return 0 < self.top_k < vocabulary or self.top_p < 1.0 or self.min_p > 0.0


@dataclass(frozen=True)
class Kept:
    """`ids` in the total order; `margin`: how far the nearest token is from a limit, in mass or in nats."""

    ids: Ids
    margin: float


def clean(logits: Floats, allowed: NDArray[np.bool_] | None = None) -> tuple[Floats, int]:
    """NaN and forbidden ids as -inf, and the row's flags: a NaN counts wherever it is, +inf only where allowed."""
    values = logits.astype(np.float32)
    flags = NAN if np.isnan(values).any() else 0
    values = np.where(np.isnan(values), np.float32(-np.inf), values)
    if allowed is not None:
        values = np.where(allowed, values, np.float32(-np.inf))
    flags |= INFINITE if (values == np.inf).any() else 0
    flags |= NOTHING if (values == -np.inf).all() else 0
    return values, flags


def unpack_allowed(words: NDArray[np.int32], vocabulary: int) -> NDArray[np.bool_]:
    """[words] int32, bit i of word w for id 32 w + i; ids beyond the last word are forbidden."""
    bits = (words.astype(np.int64)[:, None] >> np.arange(32)) & 1
    allowed = np.zeros(vocabulary, bool)
    flat = bits.reshape(-1)[:vocabulary] == 1
    allowed[: len(flat)] = flat
    return allowed


def gaps(values: Floats) -> Doubles:
    """Distance to the maximum, <= 0; +inf is at distance 0 of itself, and a row of nothing is all -inf."""
    top = values.max()
    if top == -np.inf:
        return np.full(len(values), -np.inf)
    with np.errstate(invalid="ignore"):
        return np.where(values == top, 0.0, values.astype(np.float64) - np.float64(top))


def softmax(values: Floats, temperature: float = 1.0) -> Doubles:
    weights = np.exp(gaps(values) / temperature)
    total = weights.sum()
    return weights / total if total > 0 else weights


def log_softmax(values: Floats, temperature: float = 1.0) -> Doubles:
    distance = gaps(values) / temperature
    total = np.exp(distance).sum()
    return distance - np.log(total) if total > 0 else distance


def logsumexp(values: Floats, temperature: float = 1.0) -> float:
    top = float(values.max())
    if not np.isfinite(top):
        return top
    return top / temperature + float(np.log(np.exp(gaps(values) / temperature).sum()))


def ordered(values: Floats) -> Ids:
    """Ids by value descending, then id ascending, without those at -inf."""
    order: Ids = np.lexsort((np.arange(len(values)), -values.astype(np.float64)))
    return order[values[order] > -np.inf]


def greedy(values: Floats, fallback: int = 0) -> int:
    order = ordered(values)
    return int(order[0]) if len(order) else fallback


def rank(values: Floats, token: int) -> int:
    """1 for the best: strictly greater ones, and equal ones with a lower id, come before."""
    before = (values > values[token]).sum() + (values[:token] == values[token]).sum()
    return int(before) + 1


def kept(values: Floats, filters: Filters) -> Kept:
    """Which tokens may be drawn. Top-k keeps exactly k; top-p keeps a token if the mass before it is < p."""
    ids = ordered(values)
    if len(ids) == 0 or filters.greedy():
        return Kept(ids[:1], np.inf)
    distance = gaps(values) / filters.temperature
    margin = np.inf
    if 0 < filters.top_k < len(values):
        ids = ids[: filters.top_k]
    if filters.top_p < 1.0:
        mass = np.exp(distance[ids])
        before = (mass.cumsum() - mass) / mass.sum()
        before[0] = 0.0
        margin = min(margin, float(np.abs(before[1:] - filters.top_p).min(initial=np.inf)))
        ids = ids[before < filters.top_p]
    if filters.min_p > 0.0:
        limit = np.log(filters.min_p)
        below_top = distance[ids][distance[ids] < 0.0]  # those at the top are exactly at 0, which no rounding moves
        margin = min(margin, float(np.abs(below_top - limit).min(initial=np.inf)))
        ids = ids[distance[ids] >= limit]
    return Kept(ids, margin)


def distribution(values: Floats, filters: Filters) -> Doubles:
    """The probability of each id after the filters."""
    ids = kept(values, filters).ids
    weights = np.zeros(len(values))
    weights[ids] = 1.0 if filters.greedy() else np.exp(gaps(values)[ids] / filters.temperature)
    return weights / weights.sum()


def penalise(
    logits: Floats,
    ids: Ids,
    *,
    prompt: NDArray[np.bool_],
    counts: Ids,
    bias: Floats,
    repetition: float = 1.0,
    frequency: float = 0.0,
    presence: float = 0.0,
) -> Floats:
    """Bias, then repetition over prompt and output, then frequency and presence over the output. In float32 steps."""
    values = logits.astype(np.float32).copy()
    one = np.float32
    for n, token in enumerate(ids):
        if not 0 <= token < len(values):
            continue
        value = values[token] + np.clip(bias[n], one(-100), one(100))
        if prompt[n] or counts[n] > 0:
            value = value / one(repetition) if value > 0 else value * one(repetition)
        value = value - one(counts[n]) * one(frequency)
        if counts[n] > 0:
            value = value - one(presence)
        values[token] = value
    return values
