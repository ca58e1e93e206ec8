"""Reads everything that one reconcile needs, fresh from the API server, into plain facts.

No cache on purpose: a decision on a stale pod list would announce or remove the wrong replica.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from topmast_operator.act import paths
from topmast_operator.act.client import Api
from topmast_operator.api.facts import EngineState, Facts, PodFacts, RevisionFacts
from topmast_operator.api.names import (
    ANNOTATION_FAILED,
    ANNOTATION_PROVEN,
    LABEL_MANAGED_BY,
    LABEL_MODEL,
    LABEL_REVISION,
    MANAGED_BY,
    model_selector,
)
from topmast_operator.api.resource import Model, parse
from topmast_operator.api.times import to_unix
from topmast_operator.plan.revision import revision_of
from topmast_operator.render.pinned import template_of
from topmast_operator.watch.pods import read_pod
from topmast_operator.watch.room import Rooms

Body = Mapping[str, Any]


async def gather(
    api: Api, rooms: Rooms, engines: Mapping[str, EngineState], namespace: str, name: str, now: float
) -> Facts | None:
    """The facts about one model, or None when there is no such model any more. `engines` is keyed by pod name."""
    body = await api.get(paths.model(namespace, name))
    if body is None or body["metadata"].get("deletionTimestamp"):
        return None
    model = parse(body)
    selector = model_selector(name)
    deployments, pods, service, budget = await asyncio.gather(
        api.list(paths.child("Deployment", namespace), selector),
        api.list(paths.child("Pod", namespace), selector),
        api.get(paths.child("Service", namespace, name)),
        api.get(paths.child("PodDisruptionBudget", namespace, name)),
    )
    revisions = tuple(read_revision(item, model) for item in deployments if _is_ours(item, model))
    read = tuple(read_pod(item, engines.get(item["metadata"]["name"])) for item in pods if not _has_ended(item))
    room = await rooms.room(model) if _room_matters(model, revisions, read) else None
    named = {"Service": service, "PodDisruptionBudget": budget}
    foreign = tuple(kind for kind, child in named.items() if child is not None and not _may_write(child, model))
    return Facts(model, now, revisions, read, service, budget, room, foreign)


def read_revision(body: Body, model: Model) -> RevisionFacts:
    """A Deployment of the model."""
    meta, annotations = body["metadata"], body["metadata"].get("annotations", {})
    revision = meta["labels"].get(LABEL_REVISION, "")
    return RevisionFacts(
        name=meta["name"],
        revision=revision,
        created_unix_s=to_unix(meta["creationTimestamp"]),
        replicas=body["spec"]["replicas"],
        template=template_of(body, model, wanted=revision == revision_of(model)),
        proven=annotations.get(ANNOTATION_PROVEN) == "true",
        failed=_json(annotations.get(ANNOTATION_FAILED)),
        replica_failure=_replica_failure(body),
        live=body,
    )


def _replica_failure(body: Body) -> str:
    for condition in body.get("status", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return str(condition.get("message", condition.get("reason", "")))
    return ""


def _room_matters(model: Model, revisions: Sequence[RevisionFacts], pods: Sequence[PodFacts]) -> bool:
    """Counting free devices lists every node and pod, so only when a decision or a message needs it."""
    if model.resources.accelerator is None:
        return False
    rolling = any(item.revision != revision_of(model) and item.replicas for item in revisions)
    return rolling or any(pod.scheduled is False for pod in pods)


def _has_ended(pod: Body) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _controller(body: Body) -> Mapping[str, Any] | None:
    owners = body["metadata"].get("ownerReferences", ())
    return next((owner for owner in owners if owner.get("controller")), None)


def _is_ours(body: Body, model: Model) -> bool:
    """Owned by this very model, or an orphan with its labels, which the next apply adopts."""
    owner = _controller(body)
    return owner is None or owner["uid"] == model.uid


def _may_write(body: Body, model: Model) -> bool:
    labels = body["metadata"].get("labels", {})
    labelled = labels.get(LABEL_MANAGED_BY) == MANAGED_BY and labels.get(LABEL_MODEL) == model.name
    return labelled and _is_ours(body, model)


def _json(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if text else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
