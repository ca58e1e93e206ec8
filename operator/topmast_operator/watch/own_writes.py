"""What the operator wrote a moment ago: so that no index is believed that does not show it yet, and nobody is woken
by it.

Noted from the API server's answers. An index catches up within milliseconds; until then the answer stands in for it.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from topmast_operator.api.names import KIND
from topmast_operator.watch.records import (
    Body,
    Record,
    read_deployment,
    read_model,
    read_model_pod,
    read_named,
)

REMEMBERED = 8192  # versions; each is asked about once, within a second
UNSEEN_S = 5.0  # how long an object counts that an index does not show at all: it may be gone again

READERS: Mapping[str, Callable[[Body], Record[Any]]] = {
    KIND: read_model,
    "Deployment": read_deployment,
    "Pod": read_model_pod,
    "Service": read_named,
    "PodDisruptionBudget": read_named,
    "ConfigMap": read_named,
    "NetworkPolicy": read_named,
}
BY_MODEL = frozenset({"Deployment", "Pod"})  # indexed by the model that they belong to, the others by their own name
Place = tuple[str, str, str]  # kind, namespace, name or model


class OwnWrites:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._versions: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._latest: dict[Place, dict[str, tuple[Record[Any], float]]] = {}

    def note(self, answer: Body) -> None:
        """Take the API server's answer to a write: the object as it is now, or the word that it is gone."""
        kind = answer.get("kind")
        if kind == "Status" and (uid := answer.get("details", {}).get("uid")):
            self.forget(uid)
        reader = READERS.get(str(kind))
        if reader is None:
            return
        record = reader(answer)
        _remember(self._versions, (record.uid, record.version))
        place = (str(kind), record.namespace, record.model if kind in BY_MODEL else record.name)
        self._latest.setdefault(place, {})[record.uid] = (record, time.monotonic())

    def forget(self, uid: str) -> None:
        """This object is gone, whatever an index says. A uid never comes back."""
        _remember(self._gone, uid)

    def is_gone(self, uid: str) -> bool:
        return uid in self._gone

    def made(self, uid: str, version: str) -> bool:
        """Whether this version is one that the operator made itself."""
        return (uid, version) in self._versions

    def applied_to(self, kind: str, namespace: str, name: str, indexed: tuple[Record[Any], ...]) -> Any:
        """The records of an index, with those in their place that the operator knows to be newer."""
        if not self._gone and not self._latest:
            return indexed
        known = {record.uid: record for record in indexed if record.uid not in self._gone}
        place = (kind, namespace, name)
        for uid, (record, at) in list(self._latest.get(place, {}).items()):
            seen = known.get(uid)
            unseen = seen is None and uid not in self._gone and time.monotonic() - at < UNSEEN_S
            if unseen or (seen is not None and seen.is_older_than(record)):
                known[uid] = record
            else:
                del self._latest[place][uid]
        if place in self._latest and not self._latest[place]:
            del self._latest[place]
        return tuple(known.values())


def _remember(memory: OrderedDict[Any, None], item: Any) -> None:
    memory[item] = None
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
