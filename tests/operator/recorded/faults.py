"""Faults that are recorded: what is applied for each, and what the cluster must have said before it is written down.

Pods come from the operator's own templates, with what `spec.pod` could add to them. Faults of the node come last,
because they disturb what is beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
Said = Callable[[Object], bool]  # whether a recording, so far, says what it should

REGISTRY, ODD_REGISTRY = "127.0.0.1:5000", "127.0.0.1:5001"  # in the node's network namespace
CRASHES = 3


@dataclass(frozen=True)
class Fault:
    """One recording. `objects` are applied first, into a namespace of its own; `before` and `after` are words for
    kubectl, and ("kill-node", NAME) pulls a node's cable."""

    name: str
    until: Said
    spec: Object = field(default_factory=dict)  # of the LLMDeployment, beyond the shortest valid one
    change: Object = field(default_factory=dict)  # laid over the pod's spec
    engine: Object = field(default_factory=dict)  # laid over the engine's container
    objects: Sequence[Object] = ()
    namespace_labels: Object = field(default_factory=dict)
    before: Sequence[Sequence[str]] = ()
    after: Sequence[Sequence[str]] = ()
    bare: bool = False  # a pod without a Deployment: a ReplicaSet would make hundreds
    write: bool = False  # the Deployment itself is refused: what the API server answers is recorded
    refusal: str = ""  # of an admission that is waited for first: policies and webhooks act a moment late


# What must have been said


def waits(reason: str, words: str = "") -> Said:
    def said(seen: Object) -> bool:
        waiting = _engine(seen).get("state", {}).get("waiting", {})
        return waiting.get("reason") == reason and words in waiting.get("message", "")

    return said


def unschedulable(words: str) -> Said:
    def said(seen: Object) -> bool:
        return any(
            item["type"] == "PodScheduled" and words in item.get("message", "")
            for item in seen.get("pod", {}).get("status", {}).get("conditions", ())
        )

    return said


def crashes(words: str = "") -> Said:
    """It ended three times, and the kubelet waits before it starts it again."""

    def said(seen: Object) -> bool:
        engine = _engine(seen)
        ended = engine.get("lastState", {}).get("terminated", {})
        return (
            engine.get("restartCount", 0) >= CRASHES - 1
            and engine.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
            and words in f"{ended.get('reason')} {ended.get('message')}"
        )

    return said


def refused(words: str) -> Said:
    def said(seen: Object) -> bool:
        return any(
            item["type"] == "ReplicaFailure" and words in item.get("message", "")
            for item in seen.get("deployment", {}).get("status", {}).get("conditions", ())
        )

    return said


def warned(words: str) -> Said:
    return lambda seen: any(words in f"{item['reason']}: {item['message']}" for item in seen.get("events", ()))


def failed(reason: str) -> Said:
    def said(seen: Object) -> bool:
        status = seen.get("pod", {}).get("status", {})
        return status.get("phase") == "Failed" and status.get("reason") == reason

    return said


def answered(words: str) -> Said:
    return lambda seen: words in seen.get("refused", {}).get("message", "")


def _engine(seen: Object) -> Object:
    statuses = seen.get("pod", {}).get("status", {}).get("containerStatuses", ())
    return next(iter(statuses), {})


# Objects


def volume(name: str, modes: Sequence[str] = ("ReadOnlyMany",), path: str = "/tmp", **spec: Any) -> list[Object]:
    """A volume of the node, and the claim `weights` that is bound to it."""
    size = {"storage": "1Gi"}
    host = {"path": path, "type": "Directory"}
    common = {"accessModes": list(modes), "storageClassName": ""}
    made = {"capacity": size, "hostPath": host, "persistentVolumeReclaimPolicy": "Retain", **common, **spec}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": made},
        claim(volumeName=name, **common),
    ]


def claim(**spec: Any) -> Object:
    wanted = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}, **spec}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "weights"}, "spec": wanted}


def quota(**hard: str) -> Object:
    amounts = {name.replace("__", "/").replace("_", "."): amount for name, amount in hard.items()}
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": amounts}}


def holder(**spec: Any) -> Object:
    """A pod of somebody else, that does nothing for ever."""
    container = {"name": "c", "image": "topmast/pause:1", **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "holder"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **spec},
    }


def webhook(resource: str, group: str) -> Object:
    """An admission webhook that nobody answers, for one kind of object in the recording's namespace."""
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}
    hook = {
        "name": "policy.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 2,
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"recording": f"webhook-{resource}"}},
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": f"recording-{resource}"},
        "webhooks": [hook],
    }


def policy() -> list[Object]:
    """An admission policy of the cluster's owner."""
    kind = "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    check = {
        "expression": "object.metadata.labels.exists(k, k == 'cost-center')",
        "message": "pods need the label cost-center",
    }
    selector = {"matchLabels": {"recording": "policy"}}
    return [
        {
            "apiVersion": kind,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "recording-labels"},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"namespaceSelector": selector, "resourceRules": [rule]},
                "validations": [check],
            },
        },
        {
            "apiVersion": kind,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "recording-labels"},
            "spec": {"policyName": "recording-labels", "validationActions": ["Deny"]},
        },
    ]
