"""Compares the indices with the API server: after a start until they hold everything, later now and then.

kopf says nowhere that its first lists are complete, and when a watch has to list anew it does not tell which objects
went away meanwhile. So the names and versions of all objects are listed here, without what is in them.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from topmast_operator.act import paths
from topmast_operator.act.client import METADATA_ONLY, Api
from topmast_operator.api.names import KIND, LABEL_MANAGED_BY, MANAGED_BY
from topmast_operator.watch.mirror import Mirror
from topmast_operator.watch.own_writes import OwnWrites
from topmast_operator.watch.records import number

CATCH_UP_S = 10.0
LOOK_EVERY_S = 0.1
OURS = f"{LABEL_MANAGED_BY}={MANAGED_BY}"

KINDS = {  # index -> kind, label selector
    "models": (KIND, ""),
    "deployments": ("Deployment", OURS),
    "pods": ("Pod", OURS),
    "services": ("Service", ""),
    "budgets": ("PodDisruptionBudget", ""),
    "access_files": ("ConfigMap", OURS),
    "policies": ("NetworkPolicy", OURS),
    "claims": ("PersistentVolumeClaim", ""),
    "quotas": ("ResourceQuota", ""),
    "nodes": ("Node", ""),
}

log = logging.getLogger(__name__)


class Audit:
    """Looks at the namespaces that are watched; at all of them when none is named."""

    def __init__(self, api: Api, mirror: Mirror, own: OwnWrites, namespaces: Sequence[str]) -> None:
        self._api = api
        self._mirror = mirror
        self._own = own
        self._scopes: tuple[str | None, ...] = tuple(namespaces) or (None,)

    async def agrees(self) -> bool:
        """Whether every index holds what the API server has. What only an index has still is forgotten here.

        Takes as long as the indices need to catch up with what was listed, CATCH_UP_S at most.
        """
        listed: dict[str, dict[str, str]] = {}
        for index in KINDS:
            if index == "nodes" and not self._mirror.knows_nodes:
                continue
            before = self._mirror.versions(index)
            listed[index] = await self._list(index)
            for uid in before.keys() - listed[index].keys():
                self._own.forget(uid)
        until = time.monotonic() + CATCH_UP_S
        while behind := [name for name, versions in listed.items() if self._is_behind(name, versions)]:
            if time.monotonic() > until:
                log.warning("the index of %s lacks something that the API server has", " and ".join(behind))
                return False
            await asyncio.sleep(LOOK_EVERY_S)
        return True

    async def _list(self, index: str) -> dict[str, str]:
        kind, selector = KINDS[index]
        versions: dict[str, str] = {}
        for scope in self._scopes:
            path = paths.child(kind, scope)
            async for page in self._api.pages(path, selector, accept=METADATA_ONLY):
                versions |= {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in page}
        return versions

    def _is_behind(self, index: str, listed: Mapping[str, str]) -> bool:
        held = self._mirror.versions(index)
        return any(number(held.get(uid, "")) < number(version) for uid, version in listed.items())
