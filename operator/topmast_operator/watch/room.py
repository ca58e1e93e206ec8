"""How many accelerators are free, counted from nodes and pods; unknown where the operator may not list nodes.

Counted on demand and remembered for a few seconds: the scheduler has the last word anyway.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from topmast_operator.act.client import Api, ApiError
from topmast_operator.api import quantity
from topmast_operator.api.facts import Room
from topmast_operator.api.resource import Model

KEEP_S = 2.0
REFUSED_S = 60.0  # an API server that has just started refuses everybody for a moment

Body = Mapping[str, Any]


class Rooms:
    """Answers `room` for any model; asks the API server only when the last answer is old."""

    def __init__(self, api: Api, *, cluster_wide: bool) -> None:
        self._api = api
        self._allowed_from = 0.0 if cluster_wide else float("inf")  # monotonic seconds
        self._read_at = float("-inf")
        self._nodes: list[dict[str, Any]] = []
        self._pods: list[dict[str, Any]] = []

    async def room(self, model: Model) -> Room | None:
        """Free devices of the model's accelerator on nodes that it may use; None when that cannot be known."""
        if model.resources.accelerator is None or not await self._read():
            return None
        return count(self._nodes, self._pods, model.resources.accelerator.resource, model.placement.node_selector)

    async def _read(self) -> bool:
        now = time.monotonic()
        if now < self._allowed_from:
            return False
        if now - self._read_at > KEEP_S:
            try:
                self._nodes = await self._api.list("/api/v1/nodes")
                self._pods = await self._api.list("/api/v1/pods")
            except ApiError as error:
                if error.status != 403:
                    raise
                self._allowed_from = now + REFUSED_S  # the scheduler's words must do
                return False
            self._read_at = now
        return True


def count(nodes: Iterable[Body], pods: Iterable[Body], resource: str, selector: Mapping[str, str]) -> Room:
    """Devices of `resource` on schedulable nodes with the selector's labels, less what pods there have asked for."""
    free: Counter[str] = Counter()
    for node in nodes:
        labels = node["metadata"].get("labels", {})
        fits = all(labels.get(key) == value for key, value in selector.items())
        amount = int(quantity.parse(node.get("status", {}).get("allocatable", {}).get(resource, "0")))
        if fits and amount and not node["spec"].get("unschedulable"):
            free[node["metadata"]["name"]] = amount
    total, count_of_nodes = sum(free.values()), len(free)
    for pod in pods:
        node_name = pod["spec"].get("nodeName")
        if node_name in free and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            free[node_name] -= _asked(pod, resource)
    left = [max(0, amount) for amount in free.values()]
    return Room(free=sum(left), total=total, nodes=count_of_nodes, largest_free_on_a_node=max(left, default=0))


def _asked(pod: Body, resource: str) -> int:
    amounts = [
        item.get("resources", {}).get("requests", {}).get(resource, "0") for item in pod["spec"].get("containers", ())
    ]
    return int(sum(quantity.parse(amount) for amount in amounts))
