"""How many accelerators are free, and who holds the others; unknown where the operator may not read nodes.

Nodes are watched. The pods of the whole cluster are not: watching 5,000 foreign pods for the few that hold a device
would cost more than all models together. They are listed when a rollout or an unschedulable pod asks for it, a page at
a time, each page reduced to what it holds. The scheduler has the last word anyway.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from topmast_operator.act.client import Api
from topmast_operator.api.facts import Room
from topmast_operator.api.resource import Model
from topmast_operator.watch.mirror import Mirror
from topmast_operator.watch.nodes import Node, devices_of

KEEP_S = 5.0
PODS = "/api/v1/pods"
NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"
HOLDERS_TOLD = 20

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Holding:
    """A pod that asked for devices. `tolerates`: the devices whose like-named taint it tolerates."""

    node: str  # empty while it has none
    pod: str  # namespace/name
    devices: Mapping[str, int]
    tolerates: frozenset[str]


class Rooms:
    """Answers `room` for any model. One list at a time, kept for a few seconds."""

    def __init__(self, api: Api, mirror: Mirror) -> None:
        self._api = api
        self._mirror = mirror
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")  # monotonic seconds
        self._holdings: list[Holding] = []

    async def room(self, model: Model, own: Mapping[str, bool], *, fresh: bool = False) -> Room | None:
        """Free devices of the model's accelerator on nodes that it may use; None when that cannot be known.

        own: the model's pods as namespace/name, each with whether its revision asked to tolerate the taint that is
        named after the accelerator. Where such a pod tolerates it unasked, the cluster adds that toleration by itself
        (the admission plugin ExtendedResourceToleration).
        """
        nodes = self._mirror.nodes()
        if model.resources.accelerator is None or nodes is None:
            return None
        holdings = await self._read(0.0 if fresh else KEEP_S)
        resource = model.resources.accelerator.resource
        placement = model.placement
        unasked = any(item.pod in own and not own[item.pod] and resource in item.tolerates for item in holdings)
        tainted = resource if unasked else ""
        usable = [node for node in nodes if node.takes(placement.node_selector, placement.tolerations, tainted)]
        return count(usable, holdings, resource, frozenset(own))

    async def _read(self, keep_s: float) -> list[Holding]:
        asked_at = time.monotonic()
        async with self._lock:
            if self._read_at < asked_at - keep_s:
                started = time.monotonic()
                holdings: list[Holding] = []
                async for page in self._api.pages(PODS, field_selector=NOT_ENDED):
                    holdings += [held for pod in page if (held := holding(pod)).devices]
                self._holdings, self._read_at = holdings, started
            return self._holdings


def count(nodes: Iterable[Node], holdings: Iterable[Holding], resource: str, own: frozenset[str] = frozenset()) -> Room:
    """Devices of `resource` on these nodes, less what pods there have asked for."""
    sizes = {node.name: node.devices[resource] for node in nodes if resource in node.devices}
    free = Counter(sizes)
    holders: Counter[str] = Counter()
    for held in holdings:
        amount = held.devices.get(resource, 0)
        if held.node in sizes and amount:
            free[held.node] -= amount
            if held.pod not in own:
                holders[held.pod] += amount
    left = [max(0, amount) for amount in free.values()]
    return Room(
        free=sum(left),
        total=sum(sizes.values()),
        nodes=len(sizes),
        largest_free_on_a_node=max(left, default=0),
        largest_node=max(sizes.values(), default=0),
        holders=tuple(pod for pod, _ in sorted(holders.items(), key=lambda item: (-item[1], item[0]))[:HOLDERS_TOLD]),
    )


def holding(pod: Body) -> Holding:
    """What a pod holds: its containers together, or what one init container needs before them if that is more."""
    spec, meta = pod["spec"], pod["metadata"]
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for container in spec.get("initContainers", ()):
        asked = _asked(container)
        if container.get("restartPolicy") == "Always":  # a sidecar runs on beside all that follow
            running += asked
            most |= running
        else:
            most |= running + asked
    for container in spec.get("containers", ()):
        running += _asked(container)
    devices = most | running
    keys = {item.get("key") for item in spec.get("tolerations", ()) if item.get("operator") == "Exists"}
    return Holding(
        node=spec.get("nodeName", ""),
        pod=f"{meta['namespace']}/{meta['name']}",
        devices=dict(devices),
        tolerates=frozenset(name for name in devices if name in keys),
    )


def _asked(container: Body) -> Counter[str]:
    resources = container.get("resources", {})
    return Counter(devices_of(resources.get("requests") or resources.get("limits") or {}))
