"""The gateway's own numbers, `topmast_gateway_*`.

Counters are touched on the hot path; gauges are read from the live state when somebody scrapes.
"""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from topmast_gateway.admission import Admission
from topmast_gateway.fleet import Fleet
from topmast_gateway.loads import Loads

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

    def watch(self, fleet: Fleet, loads: Loads, admission: Admission) -> None:
        """Show the live state in every scrape from now on."""
        self.registry.register(_State(self, fleet, loads, admission))

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)


class _State(Collector):
    def __init__(self, metrics: Metrics, fleet: Fleet, loads: Loads, admission: Admission) -> None:
        self._metrics, self._fleet, self._loads, self._admission = metrics, fleet, loads, admission

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        yield _gauge("requests_in_flight", "Requests from admission to last byte", self._admission.streams)
        yield _gauge("requests_held", "Requests that wait for a ready pod", self._metrics.held)
        yield _gauge("body_bytes_reserved", "Memory promised to request bodies", self._admission.held_bytes)
        yield _gauge("api_keys", "Valid entries in the Secret of API keys", len(self._fleet.keys))

        tokens = GaugeMetricFamily(
            "topmast_gateway_tokens_in_flight",
            "Estimated tokens that a pod is working on for this gateway",
            labels=["model", "pod"],
        )
        requests = GaugeMetricFamily(
            "topmast_gateway_pod_requests_in_flight",
            "Requests that a pod is working on for this gateway",
            labels=["model", "pod"],
        )
        for load in self._loads:
            tokens.add_metric([load.pod.model, load.pod.name], load.tokens)
            requests.add_metric([load.pod.model, load.pod.name], load.requests)
        yield tokens
        yield requests

        pods = GaugeMetricFamily("topmast_gateway_ready_pods", "Pods that may be picked", labels=["model"])
        for route in self._fleet.routes:
            pods.add_metric([route.model.key], len(route.pods))
        yield pods

        out = GaugeMetricFamily(
            "topmast_gateway_ejected_pods", "Pods left alone because they fail or are slow", labels=["model"]
        )
        for model, number in Counted(pod.model for pod in self._fleet.outliers.out()).items():
            out.add_metric([model], number)
        yield out

        age = GaugeMetricFamily(
            "topmast_gateway_watch_age_seconds", "Since the API server last said something", labels=["resource"]
        )
        for mirror in self._fleet.mirrors:
            age.add_metric([mirror.name], mirror.age_s)
        yield age


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"topmast_gateway_{name}", text, value=value)
