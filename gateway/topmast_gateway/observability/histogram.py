"""Histograms by model and revision, small enough for thousands of them, and written in pieces.

prometheus_client keeps an object with a lock for every bucket: five kilobytes where two hundred bytes do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from topmast_gateway.observability.exposition import head, sample

Labels = tuple[str, str]  # model, revision
_LABELS: Final = ("model", "revision")


@dataclass(slots=True)
class _Series:
    counts: list[int]  # by bucket, the last one without a bound
    total: float = 0.0


class RevisionHistogram:
    """`buckets` are upper bounds in seconds, ascending."""

    def __init__(self, name: str, text: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._text = text
        self._buckets = tuple(buckets)
        self._series: dict[Labels, _Series] = {}

    def observe(self, labels: Labels, seconds: float) -> None:
        """Count one value."""
        if (series := self._series.get(labels)) is None:
            series = self._series[labels] = _Series([0] * (len(self._buckets) + 1))
        series.counts[bisect_left(self._buckets, seconds)] += 1
        series.total += seconds

    def labels(self) -> Iterator[Labels]:
        """Of all series."""
        return iter(self._series)

    def forget(self, is_gone: Callable[[Labels], bool]) -> None:
        """Drop series that nobody will add to."""
        self._series = {labels: series for labels, series in self._series.items() if not is_gone(labels)}

    def lines(self) -> Iterator[str]:
        """Prometheus's text, a series at a time."""
        yield head(self._name, self._text, "histogram")
        bounds = [f"{bound:g}" for bound in self._buckets] + ["+Inf"]
        for labels, series in list(self._series.items()):
            below = list(accumulate(series.counts))
            for bound, count in zip(bounds, below, strict=True):
                yield sample(f"{self._name}_bucket", (*_LABELS, "le"), (*labels, bound), count)
            yield sample(f"{self._name}_count", _LABELS, labels, below[-1])
            yield sample(f"{self._name}_sum", _LABELS, labels, series.total)


class LatencyHistograms:
    """What users feel of a revision."""

    def __init__(self) -> None:
        self.queue = RevisionHistogram(
            "topmast_gateway_queue_seconds",
            "Wait for a slot at a pod, of requests that got a first token",
            (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
        )
        self.first_token = RevisionHistogram(
            "topmast_gateway_time_to_first_token_seconds",
            "From the request's arrival to the first token of its answer",
            (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
        )
        self.per_token = RevisionHistogram(
            "topmast_gateway_time_per_output_token_seconds",
            "From the first token to the answer's end, by each further token",
            (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5),
        )

    @property
    def all(self) -> tuple[RevisionHistogram, ...]:
        """Each of them."""
        return self.queue, self.first_token, self.per_token
