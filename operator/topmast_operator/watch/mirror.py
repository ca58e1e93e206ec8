"""The indices of the watching thread, as the operator's own loop reads them: one model with all that belongs to it.

kopf fills its indices in its own thread. A read copies one short list; when kopf changed it meanwhile, it is copied
again. What the operator has just written counts before an index shows it.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from topmast_operator.api.facts import ClaimFacts, PodFacts, QuotaFacts, RevisionFacts
from topmast_operator.api.names import KIND, access_name, policy_name
from topmast_operator.api.resource import Key, Model
from topmast_operator.render.template import claim_of
from topmast_operator.watch.nodes import Node
from topmast_operator.watch.own_writes import OwnWrites
from topmast_operator.watch.records import Body, ModelRef, Record, is_readable


class Index(Protocol):
    """What is used of a kopf.Index: a mapping of keys to collections."""

    def __iter__(self) -> Iterator[Any]: ...
    def get(self, key: Any, default: Any = ()) -> Iterable[Any]: ...


@dataclass(frozen=True)
class Indices:
    """The indices of watch/handlers.py by name, and what each is keyed by."""

    models: Index  # namespace, name
    deployments: Index  # namespace, model
    pods: Index  # namespace, model
    services: Index  # namespace, name
    budgets: Index  # namespace, name
    access_files: Index  # namespace, name
    policies: Index  # namespace, name
    claims: Index  # namespace, name
    quotas: Index  # namespace
    aliases: Index  # namespace, alias
    fallbacks: Index  # namespace, name of the model that is one
    nodes: Index | None = None  # name; None where nodes may not be read


@dataclass(frozen=True)
class Found:
    """A model and its surroundings, from the indices or fresh from the API server."""

    model: Record[Model]
    deployments: tuple[Record[RevisionFacts], ...] = ()
    pods: tuple[Record[PodFacts], ...] = ()  # with the model's label, checks and strays too
    service: Record[Body | None] | None = None
    budget: Record[Body | None] | None = None
    access: Record[Body | None] | None = None  # the ConfigMap of its access file
    policy: Record[Body | None] | None = None  # the NetworkPolicy of its engines
    claim: Record[ClaimFacts] | None = None  # the one that the source names
    quotas: tuple[Record[QuotaFacts], ...] = ()


class NotSyncedError(Exception):
    """The indices are being filled: what they do not hold may exist all the same."""


class Mirror:
    """`synced` is set while the indices are known to hold everything that the API server has (watch/audit.py).

    namespaces: those that are watched; all of them when none is named.
    """

    def __init__(self, own: OwnWrites, namespaces: Sequence[str] = ()) -> None:
        self.synced = asyncio.Event()
        self._own = own
        self._namespaces = frozenset(namespaces)
        self._indices: Indices | None = None

    def attach(self, indices: Indices) -> None:
        """New indices, which are empty as yet."""
        self.synced.clear()
        self._indices = indices

    def find(self, namespace: str, name: str) -> Found | None:
        """What is known of a model; None when there is no such model. Raises NotSyncedError."""
        indices = self._complete()
        model: Record[Model] | None = _one(self._read(KIND, namespace, name, indices.models))
        if model is None or not is_readable(model):
            return None
        claim = claim_of(model.content.source)
        return Found(
            model,
            deployments=self._read("Deployment", namespace, name, indices.deployments),
            pods=self._read("Pod", namespace, name, indices.pods),
            service=_one(self._read("Service", namespace, name, indices.services)),
            budget=_one(self._read("PodDisruptionBudget", namespace, name, indices.budgets)),
            access=_one(self._read("ConfigMap", namespace, access_name(name), indices.access_files)),
            policy=_one(self._read("NetworkPolicy", namespace, policy_name(name), indices.policies)),
            claim=_one(self._read("PersistentVolumeClaim", namespace, claim, indices.claims)) if claim else None,
            quotas=self._own.applied_to("ResourceQuota", namespace, "", copied(indices.quotas, namespace)),
        )

    def named(self, namespace: str, name: str) -> tuple[Record[Model | None], ...]:
        """The model of this name, one that cannot be read too. Raises NotSyncedError, as the two below do."""
        found: tuple[Record[Model | None], ...] = self._read(KIND, namespace, name, self._complete().models)
        return found

    def with_alias(self, namespace: str, alias: str) -> tuple[ModelRef, ...]:
        """The models of a namespace that have this alias."""
        return self._refs(self._complete().aliases, namespace, alias)

    def with_fallback(self, namespace: str, name: str) -> tuple[ModelRef, ...]:
        """The models, of any namespace, that name this one as a fallback."""
        return self._refs(self._complete().fallbacks, namespace, name)

    def watches(self, namespace: str) -> bool:
        return not self._namespaces or namespace in self._namespaces

    def nodes(self) -> tuple[Node, ...] | None:
        """Every node, as watch/nodes.py reads it; None where nodes may not be read, or are not all known."""
        indices = self._indices
        if indices is None or indices.nodes is None or not self.synced.is_set():
            return None
        nodes = [node for name in keys_of(indices.nodes) for node in copied(indices.nodes, name)]
        return tuple(node for node in nodes if not self._own.is_gone(node.uid))

    def models(self) -> list[Key]:
        return keys_of(self._indices.models) if self._indices else []

    @property
    def knows_nodes(self) -> bool:
        return self._indices is not None and self._indices.nodes is not None

    def versions(self, index_name: str) -> dict[str, str]:
        """The version of every object in an index, by uid."""
        index: Index | None = getattr(self._indices, index_name, None)
        if index is None:
            return {}
        return {record.uid: record.version for key in keys_of(index) for record in copied(index, key)}

    def _complete(self) -> Indices:
        if self._indices is None or not self.synced.is_set():
            raise NotSyncedError("watching has just begun: the indices are not complete yet")
        return self._indices

    def _refs(self, index: Index, namespace: str, name: str) -> tuple[ModelRef, ...]:
        return tuple(model for model in copied(index, (namespace, name)) if not self._own.is_gone(model.uid))

    def _read(self, kind: str, namespace: str, name: str, index: Index) -> Any:
        return self._own.applied_to(kind, namespace, name, copied(index, (namespace, name)))


INDEX_NAMES = tuple(field.name for field in fields(Indices))


def indices_of(given: Mapping[str, Any]) -> Indices:
    """The indices among the arguments of a kopf handler."""
    return Indices(**{name: given[name] for name in INDEX_NAMES if name in given})


def copied(index: Index, key: Any) -> tuple[Any, ...]:
    """The values of a key, while another thread may change them."""
    while True:
        try:
            return tuple(index.get(key, ()))
        except RuntimeError:  # changed while it was copied
            continue


def keys_of(index: Index) -> list[Any]:
    while True:
        try:
            return list(index)
        except RuntimeError:
            continue


def _one(records: tuple[Any, ...]) -> Any:
    """The record of a name. Of a predecessor that an index still shows and its successor, the younger one."""
    return max(records, key=lambda record: (record.created_unix_s, record.version), default=None)
