"""Gauges of the live state: read when somebody scrapes, kept nowhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.limits.overload import OverloadGuard
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.routing.endpoint_load import EndpointLoads


class LiveGauges(Collector):
    """Of the pods, the watches and the requests that are open."""

    def __init__(self, metrics: Metrics, cluster: ClusterState, loads: EndpointLoads, overload: OverloadGuard) -> None:
        self._metrics, self._cluster, self._loads, self._overload = metrics, cluster, loads, overload

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        models = [route.model.key for route in self._cluster.routes]
        revisions = {(pod.model, pod.revision) for pod in self._cluster.pods()}
        self._metrics.keep(models, revisions, time.monotonic())
        yield _gauge("requests_in_flight", "Requests from admission to last byte", self._overload.streams)
        yield _gauge("requests_held", "Requests that wait for a ready pod", self._metrics.held)
        yield _gauge("body_bytes_reserved", "Bytes of request bodies that are held", self._overload.held_bytes)
        yield _gauge("api_keys", "Valid entries in the Secret of API keys", len(self._cluster.keys))

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
        for route in self._cluster.routes:
            pods.add_metric([route.model.key], len(route.pods))
        yield pods

        out = GaugeMetricFamily(
            "topmast_gateway_ejected_pods",
            "Pods that get no requests because they fail or are slow",
            labels=["model"],
        )
        for model, number in Counter(pod.model for pod in self._cluster.outliers.ejected()).items():
            out.add_metric([model], number)
        yield out

        age = GaugeMetricFamily(
            "topmast_gateway_watch_age_seconds", "Since the API server last said something", labels=["resource"]
        )
        for informer in self._cluster.informers:
            age.add_metric([informer.name], informer.age_s)
        yield age


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"topmast_gateway_{name}", text, value=value)
