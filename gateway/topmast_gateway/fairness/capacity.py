"""How many more requests a model's pods can take: as many as they run at once, so that the order is decided here.

What a pod runs it reports about once a second; a pod that says that it is full has less from then on, and gets it back
bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.model_table import Pod

# How many more requests a model's pods can take, of its key and of how many this gateway has let through to it.
FreePlaces = Callable[[str, int], int]
_RECOVER_S: Final = 2.0  # per request, after a pod was full


class ModelCapacity:
    """`per_pod` is what a pod gets that does not report; `EndpointLoads` remembers what it had when it was full."""

    def __init__(self, cluster: ClusterState, loads: EndpointLoads, per_pod: int) -> None:
        self._cluster = cluster
        self._loads = loads
        self._per_pod = per_pod

    def free_places(self, model: str, running: int) -> int:
        """In all usable pods together: none where there is no such pod."""
        route = self._cluster.routes.by_key(model)
        if route is None or not route.pods:
            return -running
        return sum(self._limit(pod) for pod in self._cluster.usable(route)) - running

    def _limit(self, pod: Pod) -> int:
        most = self._loads.places(pod, self._per_pod)
        if (full := self._loads.full.get(pod.uid)) is None:
            return most
        requests, at = full
        return min(most, max(1, requests) + int((time.monotonic() - at) / _RECOVER_S))
