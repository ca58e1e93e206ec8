"""Writes a model's status, when it changed, and the Events that go with the change.

A change of measurements alone is written at most every ten seconds; a model that is gone needs no status.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from topmast_operator.act import paths
from topmast_operator.act.client import Api, ApiError
from topmast_operator.act.emit import emit
from topmast_operator.api.names import API_VERSION, KIND
from topmast_operator.api.resource import Model
from topmast_operator.plan.events import Event
from topmast_operator.plan.status import without_cosmetics

COSMETIC_S = 10.0


class Reporter:
    """Status writer. Remembers only when it last wrote, per model. `lease`: whose the models are, for the status."""

    def __init__(self, api: Api, lease: str) -> None:
        self._api = api
        self._lease = lease
        self._written: dict[str, float] = {}

    async def report(self, model: Model, status: Mapping[str, Any], events: Sequence[Event]) -> bool:
        """Whether the status was written. Events follow a write, so that a failed write loses none."""
        if status == model.status:
            return False
        idle_s = time.monotonic() - self._written.get(model.key, float("-inf"))
        if idle_s < COSMETIC_S and without_cosmetics(status) == without_cosmetics(model.status):
            return False
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": model.name, "namespace": model.namespace, "uid": model.uid},
            "status": {**status, "operator": {"lease": self._lease}},
        }
        try:
            await self._api.apply(f"{paths.model(model.namespace, model.name)}/status", body)
        except ApiError as error:
            if error.status in (404, 409):  # gone, or another one of the same name by now (the uid differs)
                return False
            raise
        self._written[model.key] = time.monotonic()
        await emit(self._api, model, events)
        return True

    def forget(self, key: str) -> None:
        self._written.pop(key, None)
