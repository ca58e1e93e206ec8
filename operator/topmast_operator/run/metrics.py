"""The operator's own metrics, `topmast_operator_*` and `topmast_model_*`. Only names and updates; no decisions."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

MODEL = ("namespace", "model")


class Metrics:
    """One registry of its own, so that several operators fit into one test process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.reconciles = Counter("topmast_operator_reconciles", "Passes by result.", ["result"], registry=registry)
        for result in ("done", "failed"):
            self.reconciles.labels(result)  # there from the start: a rate over an absent series is none
        self.seconds = Histogram(
            "topmast_operator_reconcile_seconds",
            "Seconds of one pass, with the second in which gateways learn of a leaving pod.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self.writes = Counter("topmast_operator_writes", "Objects written, by kind.", ["kind"], registry=registry)
        self.queue = Gauge("topmast_operator_queue_length", "Models that wait for a pass.", registry=registry)
        self.holding = Gauge("topmast_operator_lease_held", "1 while this process may act.", registry=registry)
        self.heard = Gauge("topmast_operator_last_event_seconds", "Unix time of the last event.", registry=registry)
        self.models = Gauge("topmast_operator_models", "Models that this operator looks after.", registry=registry)
        self.wanted = Gauge("topmast_model_desired_replicas", "Replicas that are wanted.", MODEL, registry=registry)
        self.ready = Gauge("topmast_model_ready_replicas", "Replicas that are ready.", MODEL, registry=registry)
        self.stalled = Gauge("topmast_model_stalled", "1 while a model waits for a human.", MODEL, registry=registry)

    def observe(self, namespace: str, model: str, status: Mapping[str, Any]) -> None:
        """Take a model's numbers from its status."""
        ready, wanted = status["ready"].split("/")
        self.wanted.labels(namespace, model).set(int(wanted))
        self.ready.labels(namespace, model).set(int(ready))
        stalled = any(item["type"] == "Stalled" and item["status"] == "True" for item in status["conditions"])
        self.stalled.labels(namespace, model).set(int(stalled))

    def forget(self, namespace: str, model: str) -> None:
        for gauge in (self.wanted, self.ready, self.stalled):
            gauge.remove(namespace, model)

    def text(self) -> bytes:
        return bytes(generate_latest(self.registry))
