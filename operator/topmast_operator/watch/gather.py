"""Everything that one reconcile needs, as plain facts: from the indices, or fresh from the API server.

A decision to take something away is made again on fresh facts before anything is done: an index may be behind, and a
stale pod list would announce or remove the wrong replica.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from topmast_operator.act import paths
from topmast_operator.act.client import Api
from topmast_operator.api.facts import ClaimFacts, EngineState, Facts, PodFacts, RevisionFacts, Room
from topmast_operator.api.names import (
    ANNOTATION_PINNED,
    ANNOTATION_TEMPLATE,
    KIND,
    LABEL_CHECK,
    LABEL_REVISION,
    access_name,
    check_selector,
    owned_selector,
    policy_name,
)
from topmast_operator.api.resource import Model
from topmast_operator.plan.revision import revision_of
from topmast_operator.plan.status import proven_by
from topmast_operator.render import pinned
from topmast_operator.render.access import is_closed
from topmast_operator.render.template import claim_of
from topmast_operator.watch.mirror import Found, Mirror
from topmast_operator.watch.records import (
    Body,
    Record,
    read_claim,
    read_deployment,
    read_model,
    read_model_pod,
    read_named,
    read_quota,
)
from topmast_operator.watch.references import add_references
from topmast_operator.watch.room import Rooms
from topmast_operator.watch.stuck import StuckPods


class Gatherer:
    """Answers `gather`. A settled model costs no request."""

    def __init__(self, api: Api, mirror: Mirror, *, closed: bool = False, policed: bool = False) -> None:
        """closed: new pods get an access file; policed: engines get a NetworkPolicy."""
        self._api = api
        self._closed, self._policed = closed, policed
        self._mirror = mirror
        self._rooms = Rooms(api, mirror)
        self._stuck = StuckPods(api)

    async def gather(
        self, engines: Mapping[str, EngineState], namespace: str, name: str, now: float, *, fresh: bool = False
    ) -> Facts | None:
        """The facts about one model, or None when there is no such model any more.

        engines: what each engine said last, by pod name. fresh: read it all from the API server now.
        """
        found = await fetch(self._api, namespace, name) if fresh else self._mirror.find(namespace, name)
        if found is None or found.model.deleting:
            return None
        facts = facts_of(await self._with_needed(found), engines, now)
        facts = add_references(self._mirror, found.model, facts)  # takes nothing away: the indices are good enough
        pods = [replace(pod, stuck_message=await self._stuck.message(namespace, pod, now)) for pod in facts.pods]
        facts = replace(facts, pods=tuple(pods), room=await self._room(facts, fresh=fresh))
        if facts.check:
            facts = replace(
                facts,
                check=replace(facts.check, stuck_message=await self._stuck.message(namespace, facts.check, now)),
            )
        return facts

    async def _with_needed(self, found: Found) -> Found:
        """With the access file and the policy that the model needs, or what others have in their place.

        The indices hold only what is labelled as Topmast's: before the first write the API server is asked for the
        name, because an apply would take over whatever bears it.
        """
        namespace, name = found.model.namespace, found.model.name
        known = {item.content.revision for item in found.deployments}
        comes = self._closed and revision_of(found.model.content) not in known
        access, policy = found.access, found.policy
        if not comes and not any(is_closed(item.content.template) for item in found.deployments):
            access = None
        elif access is None:
            access = _read(await _named(self._api, "ConfigMap", namespace, access_name(name)))
        if policy is None and self._policed:
            policy = _read(await _named(self._api, "NetworkPolicy", namespace, policy_name(name)))
        elif policy is not None and not self._policed and policy.content is None:
            policy = None  # somebody else's, and the name is not wanted
        return replace(found, access=access, policy=policy)

    async def _room(self, facts: Facts, *, fresh: bool) -> Room | None:
        """Counting free devices lists every pod of the cluster, so only when a decision or a message needs it."""
        accelerator = facts.model.resources.accelerator
        rolling = any(item.revision != revision_of(facts.model) and item.replicas for item in facts.revisions)
        if accelerator is None or not (rolling or any(pod.scheduled is False for pod in facts.pods)):
            return None
        asked = {item.revision: _asks_to_tolerate(item, accelerator.resource) for item in facts.revisions}
        own = {f"{facts.model.namespace}/{pod.name}": asked.get(pod.revision, True) for pod in facts.pods}
        return await self._rooms.room(facts.model, own, fresh=fresh)


async def fetch(api: Api, namespace: str, name: str) -> Found | None:
    """A model and its surroundings as the API server has them now."""
    body = await api.get(paths.model(namespace, name))
    if body is None:
        return None
    model = read_model(body)
    selector = owned_selector(name)
    names = {
        "Service": name,
        "PodDisruptionBudget": name,
        "ConfigMap": access_name(name),
        "NetworkPolicy": policy_name(name),
        "PersistentVolumeClaim": claim_of(model.content.source),
    }
    deployments, pods, quotas, named = await asyncio.gather(
        api.list(paths.child("Deployment", namespace), selector),
        _pods(api, namespace, name),
        api.list(paths.child("ResourceQuota", namespace)),
        asyncio.gather(*(_named(api, kind, namespace, called) for kind, called in names.items())),
    )
    service, budget, access, policy, claim = named
    return Found(
        model,
        deployments=tuple(map(read_deployment, deployments)),
        pods=tuple(map(read_model_pod, pods)),
        service=_read(service),
        budget=_read(budget),
        access=_read(access),
        policy=_read(policy),
        claim=read_claim(claim) if claim else None,
        quotas=tuple(map(read_quota, quotas)),
    )


def facts_of(found: Found, engines: Mapping[str, EngineState], now: float) -> Facts:
    """Sorts what was found: the model's own, what others own, what a predecessor left, and strays."""
    model = found.model
    ours = [item for item in found.deployments if _is_ours(item, model) or _may_be_adopted(item)]
    of_model = [item for item in found.pods if LABEL_CHECK not in item.labels]
    checks = [item for item in found.pods if LABEL_CHECK in item.labels and _is_ours(item, model)]
    pods, strays, left_pods = _sorted_pods(of_model, ours, model)
    named = {
        "Service": found.service,
        "PodDisruptionBudget": found.budget,
        "ConfigMap": found.access,
        "NetworkPolicy": found.policy,
    }
    others: list[tuple[str, Record[Any]]] = [
        (kind, child) for kind, child in named.items() if child is not None and not _may_write(child, model)
    ]
    others += [("Deployment", item) for item in found.deployments if item not in ours and _has_our_name(item, model)]
    leftover = {kind for kind, child in others if _is_predecessors(child, model)} | ({"Pod"} if left_pods else set())
    foreign = {kind for kind, child in others if not _is_predecessors(child, model)}
    newest = max(checks, key=lambda item: (item.created_unix_s, item.name), default=None)
    claim = claim_of(model.content.source)
    return Facts(
        model=model.content,
        now=now,
        revisions=tuple(completed(item.content, model.content) for item in ours),
        pods=tuple(replace(item.content, engine=engines.get(item.name)) for item in pods),
        service=found.service.content if found.service else None,
        disruption_budget=found.budget.content if found.budget else None,
        access=found.access.content if found.access else None,
        network_policy=found.policy.content if found.policy else None,
        foreign=tuple(sorted(foreign)),
        leftover=tuple(sorted(leftover)),
        strays=tuple(sorted(item.name for item in strays)),
        check=newest.content if newest else None,
        claim=(found.claim.content if found.claim else ClaimFacts(claim)) if claim else None,
        quotas=tuple(item.content for item in found.quotas),
    )


def completed(revision: RevisionFacts, model: Model) -> RevisionFacts:
    """The revision with the pod template that it was made with, and with what the model's status says of it."""
    wanted = revision.revision == revision_of(model)
    return replace(
        revision,
        template=pinned.template_of(revision.live, model, wanted=wanted),
        proven=revision.proven or revision.name in proven_by(model.status),
    )


def _sorted_pods(
    pods: Iterable[Record[PodFacts]], deployments: Iterable[Record[RevisionFacts]], model: Record[Model]
) -> tuple[list[Record[PodFacts]], list[Record[PodFacts]], list[Record[PodFacts]]]:
    """The model's replicas, pods that merely carry its labels, and pods that a predecessor of its name left."""
    since = {item.content.revision: item.created_unix_s for item in deployments}
    replicas, strays, left = [], [], []
    for pod in pods:
        revision = pod.labels.get(LABEL_REVISION, "")
        made = pod.owner and pod.owner.kind == "ReplicaSet" and pod.owner.name.startswith(f"{model.name}-{revision}-")
        if not made:
            strays.append(pod)
        # Older than the model, and than any Deployment that could have made it or was adopted with it.
        elif pod.created_unix_s < min(model.created_unix_s, since.get(revision, float("inf"))):
            left.append(pod)
        else:
            replicas.append(pod)
    return replicas, strays, left


def _is_ours(child: Record[Any], model: Record[Model]) -> bool:
    return child.owner is not None and child.owner.uid == model.uid


def _may_write(child: Record[Any], model: Record[Model]) -> bool:
    return child.model == model.name and (child.owner is None or _is_ours(child, model))


def _may_be_adopted(deployment: Record[RevisionFacts]) -> bool:
    """An orphan that Topmast made, which the next apply adopts; not just something with its labels."""
    annotations = deployment.content.live["metadata"].get("annotations", {})
    kept = ANNOTATION_PINNED in annotations or ANNOTATION_TEMPLATE in annotations
    return deployment.owner is None and bool(deployment.model) and kept


def _is_predecessors(child: Record[Any], model: Record[Model]) -> bool:
    """Owned by an earlier model of this name: its garbage collection is under way."""
    owner = child.owner
    return owner is not None and (owner.kind, owner.name) == (KIND, model.name) and owner.uid != model.uid


def _has_our_name(deployment: Record[RevisionFacts], model: Record[Model]) -> bool:
    """It stands where a revision of this model would be."""
    return deployment.name == f"{model.name}-{deployment.content.revision}"


def _asks_to_tolerate(revision: RevisionFacts, key: str) -> bool:
    tolerations = revision.template.get("spec", {}).get("tolerations", ())
    return any(item.get("key") in (None, "", key) for item in tolerations)


async def _pods(api: Api, namespace: str, model: str) -> list[dict[str, Any]]:
    """Engines and strays, and the check pods."""
    path = paths.child("Pod", namespace)
    return await api.list(path, owned_selector(model)) + await api.list(path, check_selector(model))


def _read(body: Body | None) -> Record[Body | None] | None:
    return read_named(body) if body else None


async def _named(api: Api, kind: str, namespace: str, name: str | None) -> Body | None:
    """An object by its name, through the right to list, which a watch needs anyway."""
    if name is None:
        return None
    found = await api.list(paths.child(kind, namespace), field_selector=f"metadata.name={name}")
    return found[0] if found else None
