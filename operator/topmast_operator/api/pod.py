"""`spec.pod`: what a cluster's own rules ask of an engine pod, as plain JSON in one normal form.

`MERGED_BY` is the list of its fields, the CRD's too (a test compares them). The revision hashes the normal form, the
pod template is made from it, and `merge` lays a model's own over what the operator was given for all models.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from topmast_operator.api import quantity

PodSettings = Mapping[str, Any]

BY_KEY = "its keys"
REPLACED = ""

# How a model's own value and the operator's default become one: by key, by this member of every item, or the model's
# own replaces the other as a whole.
MERGED_BY: Mapping[str, str] = {
    "labels": BY_KEY,
    "annotations": BY_KEY,
    "probes": BY_KEY,
    "imagePullSecrets": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "resourceClaims": "name",
    "hostAliases": "ip",
    "envFrom": REPLACED,
    "serviceAccountName": REPLACED,
    "runtimeClassName": REPLACED,
    "schedulerName": REPLACED,
    "affinity": REPLACED,
    "topologySpreadConstraints": REPLACED,
    "securityContext": REPLACED,
    "containerSecurityContext": REPLACED,
    "shmSize": REPLACED,
    "dnsPolicy": REPLACED,
    "dnsConfig": REPLACED,
}
VOLUME_SOURCES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)

# Ours, in every engine pod.
ACCESS_VOLUME, ACCESS_MOUNT = "topmast-access", "/etc/topmast/access"
RESERVED_VOLUMES = frozenset({"tmp", "cache", "model", "shm", ACCESS_VOLUME})
RESERVED_PATHS = frozenset(
    {"/", "/tmp", "/cache", "/dev", "/dev/shm", "/dev/termination-log", "/etc/topmast", ACCESS_MOUNT, "/proc", "/sys"}
)
PVC_MOUNT = "/models/pvc"
RESERVED_ENVIRONMENT = frozenset({"HOME", "XDG_CACHE_HOME"})
RESERVED_LABEL_DOMAIN = "topmast.dev"
RESERVED_LABELS = frozenset({"app.kubernetes.io/name", "app.kubernetes.io/managed-by"})

_SIZES = frozenset({"sizeLimit", "shmSize", "storage"})
_FALSE_BY_DEFAULT = frozenset({"readOnly", "optional"})


def normal(pod: PodSettings) -> dict[str, Any]:
    """The one spelling of what was asked.

    An empty value of a field that merges says nothing and is left out. An empty value of one that is replaced stays:
    it means "none", whatever the operator's default is (`securityContext: {}`, `runtimeClassName: ""`).
    """
    written = {}
    for name, value in pod.items():
        member = MERGED_BY[name]
        if value is None or (member != REPLACED and not value):
            continue
        value = plain({name: value})[name]
        # Kubernetes resolves $(NAME) in the order of the list.
        written[name] = sorted(value, key=lambda item: item[member]) if _sorts(name, member) else value
    return written


def merge(default: PodSettings, own: PodSettings) -> dict[str, Any]:
    """Both in normal form: what the pod gets. The model's own wins wherever both speak."""
    merged = {**default, **own}
    for name in default.keys() & own.keys():
        member = MERGED_BY[name]
        if member == BY_KEY:
            merged[name] = _by_key(default[name], own[name])
        elif member != REPLACED:
            merged[name] = by_member(member, default[name], own[name])
    return merged


def by_member(member: str, *layers: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The items of all layers, one for each value of `member`: the last layer's, at the place of the first."""
    return list({item[member]: item for layer in layers for item in layer}.values())


def _by_key(default: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**default, **own}
    for name in default.keys() & own.keys():
        if isinstance(own[name], Mapping):
            merged[name] = {**default[name], **own[name]}
    return merged


def _sorts(name: str, member: str) -> bool:
    return member not in (BY_KEY, REPLACED) and name != "env"


def plain(value: Any) -> Any:
    """JSON without what says no more than leaving it out, and with sizes in one unit."""
    if isinstance(value, Mapping):
        return {
            key: quantity.memory(item) if key in _SIZES and not isinstance(item, Mapping) else plain(item)
            for key, item in value.items()
            if item is not None and not (key in _FALSE_BY_DEFAULT and item is False)
        }
    return [plain(item) for item in value] if isinstance(value, list) else value
