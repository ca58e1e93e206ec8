"""Exactly the rights that the operator needs, as the chart must grant them; the tests run it with these alone."""

from __future__ import annotations

from typing import Any

Rule = dict[str, Any]


def _rule(group: str, resource: str, *verbs: str) -> Rule:
    return {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}


WATCHED_NAMESPACE = [
    _rule("topmast.dev", "llmdeployments", "get", "list", "watch"),
    _rule("topmast.dev", "llmdeployments/status", "patch"),
    _rule("apps", "deployments", "list", "watch", "create", "patch", "delete"),
    _rule("", "pods", "list", "watch", "create", "patch", "delete"),
    _rule("", "services", "list", "watch", "create", "patch"),
    _rule("policy", "poddisruptionbudgets", "list", "watch", "create", "patch", "delete"),
    _rule("", "configmaps", "list", "watch", "create", "patch"),
    _rule("networking.k8s.io", "networkpolicies", "list", "watch", "create", "patch"),
    _rule("", "persistentvolumeclaims", "list", "watch"),
    _rule("", "resourcequotas", "list", "watch"),
    _rule("events.k8s.io", "events", "create"),
    _rule("", "events", "list"),
]
LEASE_NAMESPACE = [
    _rule("coordination.k8s.io", "leases", "get", "create", "update"),
    _rule("", "pods", "list"),  # the gateways
]
CLUSTER = [_rule("", "nodes", "list", "watch")]
