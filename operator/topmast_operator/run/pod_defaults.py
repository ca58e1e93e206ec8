"""`--engine-pod-defaults`: what every engine pod gets that its model does not ask for, of the shape of `spec.pod`.

Checked when the operator starts, against Kubernetes' own types and what Topmast reserves: a mistake here would reach
every model that is made later.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from topmast_operator.api import pod as shape
from topmast_operator.api import quantity

_TYPES: Mapping[str, str] = {
    "labels": "Dict[str, str]",
    "annotations": "Dict[str, str]",
    "probes": "Probes",
    "imagePullSecrets": "List[V1LocalObjectReference]",
    "env": "List[V1EnvVar]",
    "envFrom": "List[V1EnvFromSource]",
    "volumes": "List[V1Volume]",
    "volumeMounts": "List[V1VolumeMount]",
    "resourceClaims": "List[V1PodResourceClaim]",
    "hostAliases": "List[V1HostAlias]",
    "serviceAccountName": "str",
    "runtimeClassName": "str",
    "schedulerName": "str",
    "affinity": "V1Affinity",
    "topologySpreadConstraints": "List[V1TopologySpreadConstraint]",
    "securityContext": "V1PodSecurityContext",
    "containerSecurityContext": "V1SecurityContext",
    "shmSize": "quantity",
    "dnsPolicy": "str",
    "dnsConfig": "V1PodDNSConfig",
}
# Fields of ours, in the form that Kubernetes' models have.
_OWN_TYPES: Mapping[str, Mapping[str, str]] = {
    "Pod": _TYPES,
    "Probes": {"startup": "Times", "liveness": "Times", "readiness": "Times"},
    "Times": {"periodSeconds": "int", "timeoutSeconds": "int", "failureThreshold": "int"},
}
_PLAIN: Mapping[str, tuple[type, str]] = {
    "str": (str, "a text"),
    "int": (int, "a number"),
    "bool": (bool, "true or false"),
}
_NOT_ALLOWED = frozenset({"privileged", "procMount", "windowsOptions"})
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class PodDefaultsError(ValueError):
    """The file cannot be used. The text names the file, what is wrong, and what to do."""


def read_pod_defaults(path: Path) -> dict[str, Any]:
    """The defaults in normal form, from JSON or YAML. Raises PodDefaultsError with every mistake that was found."""
    try:
        read = yaml.safe_load(path.read_text())
    except OSError as error:
        raise PodDefaultsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PodDefaultsError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    given = {} if read is None else read
    mistakes = list(_structure(given, "Pod", "")) or list(_reserved(given))
    if mistakes:
        raise PodDefaultsError(f"{path}: " + "; ".join(mistakes))
    return shape.normal(given)


def _structure(value: Any, kind: str, at: str) -> Iterator[str]:
    """What does not have the shape that Kubernetes knows, by path."""
    if found := re.fullmatch(r"(?:List|list)\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{at} must be a list"
            return
        for number, item in enumerate(value):
            yield from _structure(item, found[1], f"{at}[{number}]")
    elif found := re.fullmatch(r"(?:Dict|dict)[\[(]str, (.+)[\])]", kind):
        if not isinstance(value, dict):
            yield f"{at} must map names to values"
            return
        for key, item in value.items():
            yield from _structure(item, found[1], f"{at}.{key}")
    elif kind == "quantity" or at.endswith((".sizeLimit", ".storage")):
        try:
            quantity.parse(value if isinstance(value, str | int) else str(value))
        except ValueError:
            yield f"{at} must be a quantity such as 8Gi, not {value!r}"
    elif kind in _PLAIN:
        of, words = _PLAIN[kind]
        if not isinstance(value, of) or (of is int and isinstance(value, bool)):
            yield f"{at} must be {words}, not {value!r}" + (": put it in quotes" if of is str else "")
    else:
        yield from _object(value, kind, at)


def _object(value: Any, kind: str, at: str) -> Iterator[str]:
    fields = _fields(kind)
    if fields is None:
        return
    if not isinstance(value, dict):
        yield f"{at or 'it'} must be an object with fields such as {', '.join(sorted(fields)[:3])}"
        return
    for name, item in value.items():
        where = f"{at}.{name}" if at else str(name)
        if name in fields:
            yield from _structure(item, fields[name], where)
        else:
            near = difflib.get_close_matches(str(name), fields, n=1)
            yield f"{where} is not known" + (f": did you mean {near[0]}?" if near else "")


def _fields(kind: str) -> Mapping[str, str] | None:
    """Type by field of an object, as written in JSON; None for what Kubernetes leaves open."""
    from kubernetes.aio.client import models  # a second of imports, for those who have such a file

    if kind in _OWN_TYPES:
        return _OWN_TYPES[kind]
    model = getattr(models, kind, None)
    return {written: model.openapi_types[name] for name, written in model.attribute_map.items()} if model else None


def _reserved(given: Mapping[str, Any]) -> Iterator[str]:
    """What has the right shape and would still break engine pods, or open more than `spec.pod` may."""
    for name, member in shape.MERGED_BY.items():
        if member not in (shape.BY_KEY, shape.REPLACED):
            yield from _members(name, member, given.get(name, ()))
    for name in ("labels", "annotations"):
        for key in given.get(name, ()):
            if not _LABEL_KEY.fullmatch(key):
                yield f"{name} has the key {key!r}, which is none: use such as team.example/name"
            elif key.startswith(f"{shape.RESERVED_LABEL_DOMAIN}/") or key in shape.RESERVED_LABELS:
                yield f"{name}.{key} is Topmast's own: use another key"
    for volume in given.get("volumes", ()):
        sources = set(volume) - {"name"}
        if volume.get("name") in shape.RESERVED_VOLUMES:
            yield f"the volume {volume['name']} is Topmast's own: choose another name"
        if len(sources) != 1 or not sources <= shape.VOLUME_SOURCES:
            yield f"the volume {volume.get('name')} needs one source of {', '.join(sorted(shape.VOLUME_SOURCES))}"
    volumes = {volume.get("name") for volume in given.get("volumes", ())}
    for mount in given.get("volumeMounts", ()):
        path = str(mount.get("mountPath"))
        if path in shape.RESERVED_PATHS or f"{path}/".startswith(f"{shape.PVC_MOUNT}/") or not path.startswith("/"):
            yield f"nothing can be mounted at {path}: choose another absolute mountPath"
        if mount.get("name") not in volumes:
            yield f"volumeMounts names the volume {mount.get('name')}, which is not in volumes"
    for item in given.get("env", ()):
        if item.get("name") in shape.RESERVED_ENVIRONMENT:
            yield f"the variable {item['name']} is set by Topmast: remove it"
    for name in _NOT_ALLOWED & set(given.get("containerSecurityContext") or ()):
        yield f"containerSecurityContext.{name} is not allowed for engines: remove it"


def _members(name: str, member: str, items: Any) -> Iterator[str]:
    named = [item.get(member) for item in items]
    if None in named:
        yield f"every item of {name} needs its {member}"
    for twice in sorted({str(value) for value in named if named.count(value) > 1}):
        yield f"{name} has {twice} twice: keep one"
