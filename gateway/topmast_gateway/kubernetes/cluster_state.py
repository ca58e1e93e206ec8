"""What the gateway knows of the cluster at this moment: routes, keys, and pods that just refused a connection.

The only place where watched facts become a routing table. It can be rebuilt from the API server at any time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from topmast_gateway.identity.api_keys import ApiKeys
from topmast_gateway.kubernetes.client import KubeClient
from topmast_gateway.kubernetes.informer import Informer
from topmast_gateway.kubernetes.resources import MANAGED_LABEL, MODEL_LABEL, keys_of, model_of, pod_of
from topmast_gateway.kubernetes.snapshot import ClusterFacts, Snapshot
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.endpoint_picker import EndpointPicker
from topmast_gateway.routing.model_table import Model, ModelTable, Pod, Route
from topmast_gateway.routing.outlier_detection import OutlierDetector

log = logging.getLogger(__name__)

_GATHER_S = 0.05  # between two tables: with thousands of pods one takes the loop for many milliseconds
_NAME_KEPT_S = 600.0  # of a deleted model
_LOOK_S, _SAVE_EVERY_S, _CONFIRM_EVERY_S = 0.5, 5.0, 60.0  # of the snapshot
_PODS = f"{MODEL_LABEL},{MANAGED_LABEL}"


class ClusterState:
    """Live routes and keys from informers on LLMDeployments, engine pods and the Secret of API keys."""

    def __init__(
        self,
        namespaces: Sequence[str],
        keys_namespace: str,
        keys_secret: str,
        loads: EndpointLoads,
        picker: EndpointPicker,
        snapshot: Snapshot | None = None,
    ) -> None:
        self.routes = ModelTable()
        self.keys = ApiKeys()
        self.keys_changed: Callable[[ApiKeys], None] = lambda keys: None  # is called at every change
        self.outliers = OutlierDetector(time.monotonic)
        self._loads = loads
        self._picker = picker
        self._avoided: dict[str, tuple[Pod, float]] = {}  # by uid: the pod as it was, and until when (loop time)
        self._changed = asyncio.Event()
        self._rebuilding: asyncio.TimerHandle | None = None
        self._rebuilt_at = float("-inf")
        self._is_complete = False  # the table has all first lists in it
        self._snapshot = snapshot
        self._changes = 0  # of anything that is watched
        self._gone: dict[str, tuple[Model, float]] = {}  # models that were deleted, by key, and since when (loop time)
        self._models: list[Informer[Model]] = []
        self._pods: list[Informer[Pod]] = []
        for namespace in namespaces or [""]:
            inside = f"/namespaces/{namespace}" if namespace else ""
            where = f" in {namespace}" if namespace else ""
            path = f"/apis/topmast.dev/v1alpha1{inside}/llmdeployments"
            self._models.append(Informer(f"llmdeployments{where}", path, model_of, self._changed_soon))
            path = f"/api/v1{inside}/pods"
            self._pods.append(Informer(f"pods{where}", path, pod_of, self._changed_soon, {"labelSelector": _PODS}))
        self._secret: Informer[ApiKeys] = Informer(
            f"secret {keys_namespace}/{keys_secret}",
            f"/api/v1/namespaces/{keys_namespace}/secrets",
            keys_of,
            self._rebuild_keys,
            {"fieldSelector": f"metadata.name={keys_secret}"},
        )

    @property
    def informers(self) -> list[Informer[Model] | Informer[Pod] | Informer[ApiKeys]]:
        """Everything that is watched."""
        return [*self._models, *self._pods, self._secret]

    @property
    def synced(self) -> bool:
        """Whether every first list has succeeded and is in the table, so that a 404 or a 401 is the truth."""
        return self._is_complete and self._secret.synced

    async def follow(self, client: KubeClient) -> None:
        """Keep everything up to date until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self.informers:
                group.create_task(informer.follow(client), name=f"watch {informer.name}")
            if self._snapshot is not None:
                group.create_task(self._keep_snapshot(self._snapshot), name="snapshot")

    def usable(self, route: Route) -> Sequence[Pod]:
        """The route's pods without those that refused a connection a moment ago; doubted and failing ones only where
        there is no other.
        """
        pods: Sequence[Pod] = route.pods
        if self._avoided:
            now = asyncio.get_running_loop().time()
            pods = [pod for pod in pods if not self._is_avoided(pod, now)]
        pods = [pod for pod in pods if not pod.doubted] or pods
        return self.outliers.usable(pods) or pods

    def pods(self) -> list[Pod]:
        """All that may be picked, of all models."""
        return [pod for route in self.routes for pod in route.pods]

    def avoid(self, pod: Pod, seconds: float) -> None:
        """Avoid the pod for a while, or until the API server reports that it became ready again.

        A killed container refuses connections before its pod turns unready: without this it would be picked first,
        because it has nothing in flight.
        """
        self._avoided[pod.uid] = (pod, asyncio.get_running_loop().time() + seconds)

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return after the next change of routes, or after `timeout_s`."""
        changed = self._changed
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            pass

    def _is_avoided(self, pod: Pod, now: float) -> bool:
        if (entry := self._avoided.get(pod.uid)) is None:
            return False
        seen, until = entry
        if now < until and seen.ready_since == pod.ready_since:
            return True
        del self._avoided[pod.uid]
        return False

    async def _keep_snapshot(self, snapshot: Snapshot) -> None:
        """Serve from it while there is nobody to ask, and keep it up to date while there is."""
        saved, saved_at, tried = 0, float("-inf"), False
        while True:
            await asyncio.sleep(_LOOK_S)
            missing = [informer for informer in self.informers if not informer.synced]
            if missing and not tried and any(informer.is_unreachable for informer in missing):
                tried = True
                self._restore(snapshot)
            now = time.monotonic()
            if missing or any(informer.is_unreachable for informer in self.informers):
                continue
            if self._changes != saved and now - saved_at >= _SAVE_EVERY_S:
                saved, saved_at = self._changes, now
                await snapshot.save(self._facts())
            elif now - saved_at >= _CONFIRM_EVERY_S:
                saved_at = now
                await snapshot.confirm()

    def _facts(self) -> ClusterFacts:
        return ClusterFacts(
            {informer.name: dict(informer.items) for informer in self._models},
            {informer.name: dict(informer.items) for informer in self._pods},
            list(self.keys),
            list(self.keys.teams),
            self._secret.name,
        )

    def _restore(self, snapshot: Snapshot) -> None:
        if (found := snapshot.load()) is None:
            return
        facts, age_s = found
        log.warning("the API server is away: serving from what was known %.0f s ago", age_s)
        for models in self._models:
            if not models.synced and models.name in facts.models:
                models.restore(facts.models[models.name])
        for pods in self._pods:
            if not pods.synced and pods.name in facts.pods:
                pods.restore(facts.pods[pods.name])
        if not self._secret.synced and facts.secret == self._secret.name:
            self._secret.restore({"": ApiKeys(facts.keys, facts.teams)})

    def _changed_soon(self) -> None:
        """Build the table anew: at once, but in a storm of changes only now and then."""
        self._changes += 1
        loop = asyncio.get_running_loop()
        if self._rebuilding is None:
            self._rebuilding = loop.call_at(max(loop.time(), self._rebuilt_at + _GATHER_S), self._rebuild_table)

    def _rebuild_table(self) -> None:
        self._rebuilding, self._rebuilt_at = None, asyncio.get_running_loop().time()
        models = [model for informer in self._models for model in informer.items.values()]
        pods = [pod for informer in self._pods for pod in informer.items.values()]
        self.routes = ModelTable(models, pods, self._just_gone({model.key for model in models}))
        listed = all(one.synced for one in self._models) and all(one.synced for one in self._pods)
        self._is_complete = self._is_complete or listed
        present = {pod.uid for pod in pods}
        self._loads.forget(present)
        self._picker.forget(present, {route.model.key for route in self.routes})
        self.outliers.set_pods(self.pods())
        self._avoided = {uid: entry for uid, entry in self._avoided.items() if uid in present}
        self._changed.set()
        self._changed = asyncio.Event()

    def _just_gone(self, present: set[str]) -> list[Model]:
        """Models that are not there any more, and may be created again."""
        now = asyncio.get_running_loop().time()
        for route in self.routes:
            if route.model.key not in present:
                self._gone.setdefault(route.model.key, (route.model, now))
        self._gone = {
            key: (model, at)
            for key, (model, at) in self._gone.items()
            if key not in present and now - at < _NAME_KEPT_S
        }
        return [model for model, _ in self._gone.values()]

    def _rebuild_keys(self) -> None:
        self.keys = next(iter(self._secret.items.values()), ApiKeys())
        self._changes += 1
        self.keys_changed(self.keys)
