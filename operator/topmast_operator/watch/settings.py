"""How kopf is set: it watches for ever, asks for as little as it can, and writes nothing."""

from collections.abc import Iterator
from typing import Any

import kopf

from topmast_operator.api.names import LABEL_MANAGED_BY, MANAGED_BY

PAGE = 200  # objects of a first list that are in memory at a time
SILENT_S = 75.0  # a watch gets a bookmark every minute: one that is silent for longer was cut off on the way


def configure(settings: kopf.OperatorSettings) -> None:
    """Called once, in kopf's startup handler."""
    settings.scanning.disabled = True  # or it wants to list CRDs and namespaces, and waits for that right for ever
    settings.posting.enabled = False
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 60
    settings.networking.error_backoffs = _Backoffs()
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = SILENT_S
    settings.watching.chunk_size = PAGE
    settings.persistence.diffbase_storage = _NoEssence()
    ours = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
    for resource in (
        ("apps", "v1", "deployments"),
        ("", "v1", "pods"),
        ("", "v1", "configmaps"),
        ("networking.k8s.io", "v1", "networkpolicies"),
    ):
        settings.watching.label_selectors[resource] = ours


class _Backoffs:
    """Seconds between attempts, for ever: an API server that is away for an hour is no reason to stop watching."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 3)
        while True:
            yield 5


class _NoEssence(kopf.DiffBaseStorage):  # type: ignore[misc]
    """kopf compares each object with what it last handled, for handlers that we have none of: a deep copy an event."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Nothing is ever stored on an object."""
