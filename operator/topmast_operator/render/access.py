"""Closed doors: how an engine's pod is given its access file, the ConfigMap that holds it, and the NetworkPolicy.

The file has public keys only. It is a part of no revision: its content changes while pods run, and restarts none.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from topmast_operator.api.names import CONTAINER, access_name, model_labels, policy_name
from topmast_operator.api.pod import ACCESS_MOUNT, ACCESS_VOLUME
from topmast_operator.api.resource import Model
from topmast_operator.render.children import Manifest, owned

FILE = "access.json"


@dataclass(frozen=True)
class Doors:
    """What holds for the engines of all models now. It may change while the operator runs, the keys at least."""

    access: str | None = None  # the access file's content; None: there are no keys, and no file is written
    ingress: Sequence[Mapping[str, Any]] | None = None  # rules of engines' NetworkPolicies; None: there shall be none


def access_text(keys: Iterable[Mapping[str, str]], metrics_sha256: Sequence[str], *, metrics_open: bool) -> str:
    """The file's content (docs/contracts.md, "Closed doors"). `keys` are public JWKs."""
    metrics = {"open": metrics_open, "token_sha256": sorted(metrics_sha256)}
    return json.dumps({"keys": [dict(key) for key in keys], "metrics": metrics}, sort_keys=True, indent=1) + "\n"


def arguments(model: Model) -> list[str]:
    """What makes an engine ask for tokens."""
    return ["--access-file", f"{ACCESS_MOUNT}/{FILE}", "--access-audience", f"{model.namespace}/{model.name}"]


def volume(model: Model) -> dict[str, Any]:
    """Not optional: an engine without its file would be ready and refuse everybody."""
    return {"name": ACCESS_VOLUME, "configMap": {"name": access_name(model.name)}}


def mount() -> dict[str, Any]:
    """The whole directory: a file that is mounted by a subPath never changes."""
    return {"name": ACCESS_VOLUME, "mountPath": ACCESS_MOUNT, "readOnly": True}


def is_closed(template: Mapping[str, Any]) -> bool:
    """Whether the pods of this template need the ConfigMap."""
    return any(item["name"] == ACCESS_VOLUME for item in template.get("spec", {}).get("volumes", ()))


def without_access(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The pod's spec for what serves nobody. The engine's arguments are left as they are."""
    containers = [
        {**item, "volumeMounts": [one for one in item["volumeMounts"] if one["name"] != ACCESS_VOLUME]}
        if item["name"] == CONTAINER and "volumeMounts" in item
        else item
        for item in spec["containers"]
    ]
    volumes = [item for item in spec.get("volumes", ()) if item["name"] != ACCESS_VOLUME]
    return {**spec, "containers": containers, "volumes": volumes}


def config_map(model: Model, text: str) -> Manifest:
    """The ConfigMap that the model's pods mount."""
    labels = model_labels(model.name)
    return owned(model, "v1", "ConfigMap", access_name(model.name), labels, {}, {FILE: text}, part="data")


def digest(config_map: Manifest) -> str:
    """Tells one content from another."""
    return hashlib.sha256(config_map["data"][FILE].encode()).hexdigest()[:12]


def network_policy(model: Model, ingress: Sequence[Mapping[str, Any]]) -> Manifest:
    """Who gets to the model's engines on a network that enforces policies."""
    labels = model_labels(model.name)
    spec = {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress"], "ingress": list(ingress)}
    return owned(model, "networking.k8s.io/v1", "NetworkPolicy", policy_name(model.name), labels, {}, spec)
