"""The gateway's own numbers, `topmast_gateway_*`.

Touched on the hot path. What is read from the live state when somebody scrapes is in live_gauges.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from topmast_gateway.observability.exposition import lines_of
from topmast_gateway.observability.histogram import Labels, LatencyHistograms

_GAP_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60)
_KEPT_S = 600.0  # series of a model or revision that is gone: scrapers have seen its last values by then


class Metrics:
    """Counters that the data path writes to."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "topmast_gateway_requests",
            "Requests by model and status code (499: the client left)",
            ["model", "code"],
            registry=self.registry,
        )
        self.authentication_failures = Counter(
            "topmast_gateway_authentication_failures",
            "Requests without a valid key or token (throttled: too many from one address)",
            ["reason"],
            registry=self.registry,
        )
        self.upstream_errors = Counter(
            "topmast_gateway_upstream_errors",
            "Failures between gateway and engine",
            ["model", "kind"],
            registry=self.registry,
        )
        self.retries = Counter(
            "topmast_gateway_retries",
            "Further tries before the first byte, by what ended the one before",
            ["model", "kind"],
            registry=self.registry,
        )
        self.wake_calls = Counter(
            "topmast_gateway_wake_calls",
            "Calls at the operator for a model that sleeps, by result",
            ["model", "result"],
            registry=self.registry,
        )
        self.moves = Counter(
            "topmast_gateway_moves",
            "Started answers that another pod continued, by what ended the try before",
            ["model", "kind"],
            registry=self.registry,
        )
        self.gap = Histogram(
            "topmast_gateway_move_gap_seconds",
            "From the break of an answer, where it was noticed, to its next token from another pod",
            ["model"],
            buckets=_GAP_BUCKETS_S,
            registry=self.registry,
        )
        self.routed = Counter(
            "topmast_gateway_routed",
            "Tries sent to a pod, by why it was that pod",
            ["model", "reason"],
            registry=self.registry,
        )
        self.fallbacks = Counter(
            "topmast_gateway_fallbacks",
            "Requests that were sent to another model of spec.access.fallbacks, by why their own could not answer",
            ["model", "to", "code"],
            registry=self.registry,
        )
        self._by_model = (
            *(self.requests, self.upstream_errors, self.retries, self.wake_calls, self.moves, self.gap, self.routed),
            self.fallbacks,
        )
        self.latency = LatencyHistograms()
        self.held = 0  # requests that wait for a pod
        self._last_seen: dict[str | Labels, float] = {}  # models, and their revisions: monotonic seconds

    def observe_gap(self, model: str, seconds: float) -> None:
        """An answer that broke was continued after so long."""
        self.gap.labels(model).observe(seconds)

    def lines(self) -> Iterator[str]:
        """Everything in Prometheus's text format, line by line."""
        yield from lines_of(self.registry)
        for histogram in self.latency.all:
            yield from histogram.lines()

    def keep(self, models: Iterable[str], revisions: Iterable[Labels], now: float) -> None:
        """These are there at the moment. Series of what has been away for long are dropped: days must not add up."""
        series: set[Labels] = {labels for histogram in self.latency.all for labels in histogram.labels()}
        present: list[str | Labels] = [*models, *revisions]
        self._last_seen |= dict.fromkeys(present, now)
        for labels in series:
            self._last_seen.setdefault(labels, now)
        gone = {found for found, at in self._last_seen.items() if now - at > _KEPT_S}
        for found in gone:
            del self._last_seen[found]
            if isinstance(found, str):
                for metric in self._by_model:
                    metric.remove_by_labels({"model": found})
        for histogram in self.latency.all:
            histogram.forget(lambda labels: labels in gone or labels[0] in gone)
