"""A node, reduced to what a model's placement asks of it: labels, taints, whether pods may come, and its devices."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from topmast_operator.api import quantity

Body = Mapping[str, Any]
KEEPS_AWAY = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True, slots=True)
class Node:
    """One version of a node. `open`: it is Ready and not cordoned."""

    name: str
    uid: str
    version: str
    open: bool
    labels: Mapping[str, str]
    taints: tuple[Mapping[str, str], ...]
    devices: Mapping[str, int]  # by extended resource

    def takes(self, selector: Mapping[str, str], tolerations: Iterable[Mapping[str, Any]], tainted: str = "") -> bool:
        """Whether a pod with this selector and these tolerations may be placed here, room apart.

        `tainted`: the key of a taint that does not count, because something adds its toleration to pods.
        """
        if not self.open or any(self.labels.get(key) != value for key, value in selector.items()):
            return False
        tolerations = tuple(tolerations)
        return all(
            taint["key"] == tainted or any(_tolerates(item, taint) for item in tolerations)
            for taint in self.taints
            if taint.get("effect") in KEEPS_AWAY
        )


def read_node(body: Body) -> Node:
    meta, spec, status = body["metadata"], body.get("spec", {}), body.get("status", {})
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in status.get("conditions", ()))
    return Node(
        name=meta["name"],
        uid=meta["uid"],
        version=meta["resourceVersion"],
        open=ready and not spec.get("unschedulable"),
        labels=meta.get("labels", {}),
        taints=tuple({key: str(value) for key, value in item.items()} for item in spec.get("taints", ())),
        devices=devices_of(status.get("allocatable", {})),
    )


def devices_of(amounts: Mapping[str, Any]) -> dict[str, int]:
    """Extended resources among these amounts: whole devices by their name, such as nvidia.com/gpu."""
    found = {name: int(quantity.parse(amount)) for name, amount in amounts.items() if "/" in name}
    return {name: count for name, count in found.items() if count}


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, str]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", "")
