"""What the gateway takes from Kubernetes objects: models, pods that may be picked, keys.

Pure functions over the API server's JSON. A pod that lacks something is not routable; nothing is guessed.
"""

from __future__ import annotations

import re
from datetime import datetime
from itertools import islice
from typing import Any

from topmast_gateway.identity.api_keys import ApiKeys, from_secret
from topmast_gateway.routing.model_status import model_status
from topmast_gateway.routing.model_table import DEFAULT_RETRIES, Model, Pod

Json = dict[str, Any]

MODEL_LABEL = "topmast.dev/model"
REVISION_LABEL = "topmast.dev/revision"
MANAGED_LABEL = "app.kubernetes.io/managed-by=topmast"
DRAINING_ANNOTATION = "topmast.dev/draining"
ENGINE_PORT = 8000
_TIMEOUTS = {
    "queueSeconds": "queue_s",
    "holdSeconds": "hold_s",
    "progressSeconds": "progress_s",
    "answerSeconds": "answer_s",
}
_MOST_NAMES = 64  # of a list in spec.access; the CRD lets in 16, and a later one perhaps more
_MOST_REVISIONS = 1000
_LARGEST_COUNT = 2**31
_FULL_NAME = re.compile(r"[a-z0-9-]+/[a-z0-9-]+")  # of a model, which no alias may look like


def model_of(resource: Json) -> Model:
    """An LLMDeployment as a routing fact."""
    meta, spec = resource["metadata"], resource.get("spec") or {}
    suspended = spec.get("suspend") is True
    return Model(
        namespace=meta["namespace"],
        name=meta["name"],
        created=_unix(meta.get("creationTimestamp")),
        suspended=suspended,
        sleeps=spec.get("sleep") is not None and not suspended,
        status=model_status(resource.get("status") or {}),
        weights=_weights(resource.get("status") or {}),
        **_access(spec.get("access") or {}, meta["namespace"]),
    )


def pod_of(pod: Json) -> Pod | None:
    """An engine pod, or None while nothing may be sent to it: not ready, leaving, or about to drain. ValueError where
    what is needed of it is no text.

    A kubelet that cannot report makes the node controller set Ready to False while ContainersReady stays True. After
    an outage of the API server that hits every pod at once although all of them work: such a pod is only doubted.
    """
    meta, status = pod["metadata"], pod.get("status") or {}
    ready = _condition(status, "Ready")
    is_ready = ready.get("status") == "True"
    doubted = ready.get("status") == "False" and _condition(status, "ContainersReady").get("status") == "True"
    labels = meta.get("labels") or {}
    name = labels.get(MODEL_LABEL)
    draining = (meta.get("annotations") or {}).get(DRAINING_ANNOTATION) == "true"
    ip = status.get("podIP")
    if not name or not ip or draining or meta.get("deletionTimestamp") or not (is_ready or doubted):
        return None
    ready_since, revision = ready.get("lastTransitionTime") or "", labels.get(REVISION_LABEL, "")
    if not all(isinstance(text, str) for text in (name, ip, ready_since, revision)):
        raise ValueError("a field of the pod is no text")
    return Pod(
        uid=meta["uid"],
        namespace=meta["namespace"],
        name=meta["name"],
        model=f"{meta['namespace']}/{name}",
        address=f"[{ip}]:{ENGINE_PORT}" if ":" in ip else f"{ip}:{ENGINE_PORT}",
        ready_since=ready_since,
        doubted=doubted,
        revision=revision,
    )


def keys_of(secret: Json) -> ApiKeys:
    """The Secret of API keys."""
    return from_secret(secret.get("data") or {})


def _access(access: Json, namespace: str) -> dict[str, Any]:
    """What `spec.access` says, as Model's fields; ValueError where it says what the CRD does not let in."""
    aliases, fallbacks = (tuple(islice(access.get(field) or (), _MOST_NAMES)) for field in ("aliases", "fallbacks"))
    timeouts, retries = access.get("timeouts") or {}, access.get("retries", DEFAULT_RETRIES)
    numbers = [*timeouts.values(), retries]
    if not all(isinstance(name, str) for name in (*aliases, *fallbacks)) or not all(map(_is_count, numbers)):
        raise ValueError("spec.access has a value of another type")
    return {
        "aliases": tuple(name for name in aliases if not _FULL_NAME.fullmatch(name)),
        "fallbacks": tuple(name if "/" in name else f"{namespace}/{name}" for name in fallbacks),
        "timeouts": tuple((ours, float(timeouts[theirs])) for theirs, ours in _TIMEOUTS.items() if theirs in timeouts),
        "retries": retries,
    }


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_COUNT


def _weights(status: Json) -> tuple[tuple[str, int], ...]:
    """By revision, from `status.revisions`. A revision without a weight gets requests only when no other can."""
    revisions = islice(status.get("revisions") or (), _MOST_REVISIONS)
    listed = [(one.get("name"), one.get("weight")) for one in revisions]
    return tuple((name, weight) for name, weight in listed if isinstance(name, str) and _is_count(weight))


def _condition(status: Json, kind: str) -> Json:
    for condition in status.get("conditions") or ():
        if condition.get("type") == kind:
            return condition  # type: ignore[no-any-return]
    return {}


def _unix(timestamp: str | None) -> int:
    try:
        return int(datetime.fromisoformat(timestamp or "").timestamp())
    except ValueError:
        return 0
