"""The routing table: which pods may serve the model that a request names.

Pure values and functions; it knows neither Kubernetes nor HTTP. A table never changes: new facts make a new one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from topmast_gateway.routing.model_status import UNKNOWN_STATUS, ModelStatus

DEFAULT_RETRIES = 2  # of a request that may have run: one that kills its engine must not kill them all


@dataclass(frozen=True, slots=True)
class Model:
    """One LLMDeployment. `created` is in Unix seconds; a suspended model is not worth waiting for, and one that may
    sleep wakes when it is called. `weights` are shares of its requests by revision; without any all are equal.

    From `spec.access`: further names, models that answer while this one cannot (by key), timeouts in seconds by the
    names of config.Timeouts, and how often a request that may have run is tried again.
    """

    namespace: str
    name: str
    created: int = 0
    suspended: bool = False
    sleeps: bool = False
    status: ModelStatus = UNKNOWN_STATUS
    weights: tuple[tuple[str, int], ...] = ()
    aliases: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    timeouts: tuple[tuple[str, float], ...] = ()
    retries: int = DEFAULT_RETRIES
    key: str = field(init=False, repr=False, compare=False)  # the name that is never ambiguous

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.namespace}/{self.name}")


@dataclass(frozen=True, slots=True)
class Pod:
    """One engine pod that may be picked. `ready_since` distinguishes a pod that came back from the one that was lost.

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

    `gone` are models that were there a moment ago. They keep their names: one that is created again must not have its
    requests answered by another team's model of the same name meanwhile.

    Within a namespace a model's own name comes before all aliases, and of two models with the same alias the older one
    has it, or the one whose name sorts first. The condition AccessResolved of the other one says so.
    """

    def __init__(self, models: Iterable[Model] = (), pods: Iterable[Pod] = (), gone: Iterable[Model] = ()) -> None:
        known = {model.key: model for model in models}
        pods_of: dict[str, list[Pod]] = defaultdict(list)
        for pod in pods:
            if pod.model in known:
                pods_of[pod.model].append(pod)
        self._routes = {
            key: Route(model, tuple(sorted(pods_of[key], key=lambda pod: (pod.name, pod.uid))))
            for key, model in sorted(known.items())
        }
        self._keys = _full_names(known.values(), gone)
        self._named: dict[str, list[str]] = defaultdict(list)  # a key once: each namespace has a name once
        self._aliases: dict[str, list[str]] = defaultdict(list)
        for full_name, key in self._keys.items():
            self._named[full_name.partition("/")[2]].append(key)
            if full_name != key:
                self._aliases[key].append(full_name)

    def named(self, name: str) -> Sequence[str]:
        """Keys of the models with this name or alias, in every namespace, also of those that are just gone."""
        return sorted(self._named.get(name, ()))

    def key_of(self, full_name: str) -> str:
        """The key of the model that `namespace/name` or `namespace/alias` means; the text itself where none does."""
        return self._keys.get(full_name, full_name)

    def aliases(self, model: Model) -> Sequence[str]:
        """The model's aliases that are its own, each behind its namespace."""
        return self._aliases.get(model.key, ())

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


def _full_names(models: Iterable[Model], gone: Iterable[Model]) -> dict[str, str]:
    """Keys of models by their names and aliases, each behind its namespace."""
    keys: dict[str, str] = {}
    for several in (models, gone):
        oldest_first = sorted(several, key=lambda model: (model.created, model.name))
        keys |= {model.key: model.key for model in oldest_first if model.key not in keys}
        for model in oldest_first:
            for alias in model.aliases:
                keys.setdefault(f"{model.namespace}/{alias}", model.key)
    return keys
