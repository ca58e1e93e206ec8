"""The gateway's own numbers, `topmast_gateway_*`.

Touched on the hot path. What is read from the live state when somebody scrapes is in live_gauges.py.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest

_TTFB_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_GAP_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60)


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
            "Answers that were begun and went on elsewhere, by what ended the try before",
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
        self.ttfb = Histogram(
            "topmast_gateway_time_to_first_byte_seconds",
            "From the request's arrival to the first byte of an engine's answer",
            ["model"],
            buckets=_TTFB_BUCKETS_S,
            registry=self.registry,
        )
        self.held = 0  # requests that wait for a pod

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)
