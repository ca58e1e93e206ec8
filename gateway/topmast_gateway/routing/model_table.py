"""The routing table: which pods may serve the model that a request names.

Pure values and functions; it knows neither Kubernetes nor HTTP. A table never changes: new facts make a new one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from topmast_gateway.routing.model_status import UNKNOWN_STATUS, ModelStatus


@dataclass(frozen=True, slots=True)
class Model:
    """One LLMDeployment. `created` is in Unix seconds; a suspended model is not worth waiting for, and one that may
    sleep wakes when it is called. `weights` are shares of its requests by revision; without any all are equal.
    """

    namespace: str
    name: str
    created: int = 0
    suspended: bool = False
    sleeps: bool = False
    status: ModelStatus = UNKNOWN_STATUS
    weights: tuple[tuple[str, int], ...] = ()

    @property
    def key(self) -> str:
        """The name that is never ambiguous."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Pod:
    """One engine pod that may be picked. `ready_since` tells a pod that came back from the one that was lost.

    A `doubted` pod is one whose node the cluster has lost sight of: for when there is no other.
    """

    uid: str
    namespace: str
    name: str
    model: str  # the key of its Model
    address: str  # host:port
    ready_since: str = ""
    doubted: bool = False
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """A model and its pods, in a fixed order."""

    model: Model
    pods: tuple[Pod, ...]


class ModelTable:
    """All models of this gateway. Pods without a model are left out: what was deleted is not served.

    `gone` are keys of models that were there a moment ago. They keep their names: one that is made anew must not have
    its requests answered by another team's model of the same name meanwhile.
    """

    def __init__(self, models: Iterable[Model] = (), pods: Iterable[Pod] = (), gone: Iterable[str] = ()) -> None:
        known = {model.key: model for model in models}
        pods_of: dict[str, list[Pod]] = defaultdict(list)
        for pod in pods:
            if pod.model in known:
                pods_of[pod.model].append(pod)
        self._routes = {
            key: Route(model, tuple(sorted(pods_of[key], key=lambda pod: (pod.name, pod.uid))))
            for key, model in sorted(known.items())
        }
        self._named: dict[str, list[str]] = defaultdict(list)
        for key in sorted({*self._routes, *gone}):
            self._named[key.partition("/")[2]].append(key)

    def named(self, name: str) -> Sequence[str]:
        """Keys of the models of this name, in every namespace, also of those that are just gone."""
        return self._named.get(name, ())

    def by_key(self, key: str) -> Route | None:
        """The route of the model `namespace/name`, or None when there is none."""
        return self._routes.get(key)

    def public_name(self, model: Model) -> str:
        """Its name alone, where no other namespace has a model of that name."""
        return model.name if len(self._named[model.name]) == 1 else model.key

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes.values())

    def __len__(self) -> int:
        return len(self._routes)
