"""The manifests of a model's children, complete as they are applied: Deployments, the Service, the disruption budget.

`live_differs` says whether applying one would change anything, so that nothing is written in vain.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from topmast_operator.api.names import (
    ANNOTATION_APPLIED,
    ANNOTATION_FAILED,
    ANNOTATION_PROVEN,
    API_VERSION,
    KIND,
    LABEL_REVISION,
    SERVICE_PORT,
    model_labels,
)
from topmast_operator.api.resource import Model
from topmast_operator.render import pinned

Manifest = dict[str, Any]

PROGRESS_DEADLINE_S = 3600  # large weights from slow storage; the operator judges starts by itself


def deployment(
    model: Model,
    revision: str,
    template: Mapping[str, Any],
    replicas: int,
    *,
    proven: bool,
    failed: Mapping[str, str] | None,
) -> Manifest:
    """The Deployment of one revision. Its pod template is kept in an annotation too, and re-applied from there."""
    annotations = pinned.annotations(template)
    if proven:
        annotations[ANNOTATION_PROVEN] = "true"
    if failed:
        annotations[ANNOTATION_FAILED] = _canonical(failed)
    labels = {**model_labels(model.name), LABEL_REVISION: revision}
    spec = {
        "replicas": replicas,
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": PROGRESS_DEADLINE_S,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": labels},
        "template": template,
    }
    return owned(model, "apps/v1", "Deployment", f"{model.name}-{revision}", labels, annotations, spec)


def service(model: Model) -> Manifest:
    """The Service of the model, in front of all its revisions."""
    spec = {
        "type": "ClusterIP",
        "selector": model_labels(model.name),
        "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": "http", "protocol": "TCP"}],
    }
    return owned(model, "v1", "Service", model.name, model_labels(model.name), {}, spec)


def disruption_budget(model: Model) -> Manifest:
    """At most one replica leaves at a time. Only with two or more: on one it would block node drains for ever."""
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": model_labels(model.name)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return owned(model, "policy/v1", "PodDisruptionBudget", model.name, model_labels(model.name), {}, spec)


def live_differs(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> bool:
    """Whether the live object lacks something of the wanted one. What others added does not count."""
    # Items of a list carry no kind and no version.
    parts = [part for part in ("metadata", "spec", "data") if part in wanted]
    return not all(_contains(live.get(part, {}), wanted[part]) for part in parts)


def failure_of(manifest: Mapping[str, Any]) -> str | None:
    """The record of failure on a Deployment manifest."""
    record: str | None = manifest["metadata"].get("annotations", {}).get(ANNOTATION_FAILED)
    return record


def _contains(live: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        # The API server drops empty maps and zero values when it stores, so these equal an absent field.
        return isinstance(live, Mapping) and all(
            _contains(live[key], value) if key in live else value in ({}, [], None, "", False)
            for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(_contains, live, wanted))
    return bool(live == wanted)


def owned(
    model: Model,
    api_version: str,
    kind: str,
    name: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    content: Mapping[str, Any],
    *,
    part: str = "spec",
) -> Manifest:
    """A manifest that belongs to the model, with a digest of itself. `part` is where its content stands."""
    # blockOwnerDeletion would need the right to update finalizers where OwnerReferencesPermissionEnforcement is on.
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": model.name, "uid": model.uid}
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": model.namespace,
        "labels": dict(labels),
        "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": False}],
    }
    body: Manifest = {"apiVersion": api_version, "kind": kind, "metadata": metadata, part: content}
    metadata["annotations"] = {**annotations, ANNOTATION_APPLIED: _digest(body)}
    return body


def _digest(body: Manifest) -> str:
    """Notices a field that this version no longer sets: only an apply can take it away. Of names, not of values."""
    if "spec" in body:
        spec = {**body["spec"], "replicas": None}
        if "template" in spec:
            spec["template"] = pinned.without_values(spec["template"])
        if "containers" in spec:  # of a check pod
            spec = pinned.without_values({"spec": spec})["spec"]
        body = {**body, "spec": spec}
    return hashlib.sha256(_canonical(body).encode()).hexdigest()[:12]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
