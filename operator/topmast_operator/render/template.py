"""The pod template of an engine, rendered once per revision and pinned from then on.

Must satisfy the restricted pod security standard unless the model or the operator's defaults say otherwise, and give
the pod no credentials of the cluster. `spec.pod` fills what is not Topmast's own; it never replaces what is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from topmast_operator.api import quantity
from topmast_operator.api.names import (
    ADMIN_PORT,
    CONTAINER,
    DRAIN_NOTICE_S,
    HTTP_PORT,
    LABEL_REVISION,
    model_labels,
)
from topmast_operator.api.pod import PVC_MOUNT, PodSettings, merge
from topmast_operator.api.resource import EnvironmentValue, Model
from topmast_operator.render import access, security
from topmast_operator.render.resources import resources

NODE_LOSS_TOLERATION_S = 30  # the default of 300 s would leave a lost node's replica unreplaced for five minutes
END_MARGIN_S = 10  # between the engine's own deadline and the kubelet's SIGKILL
TMP_LIMIT, CACHE_LIMIT = "2Gi", "8Gi"  # beyond them the pod is evicted before the node's disk is full

# Of `spec.pod`, what a pod template has under the same name. An empty value leaves the field to Kubernetes.
_SAME_NAME = (
    "imagePullSecrets",
    "serviceAccountName",
    "runtimeClassName",
    "schedulerName",
    "affinity",
    "resourceClaims",
    "hostAliases",
    "dnsPolicy",
    "dnsConfig",
)
# cluster-autoscaler keeps a node for a pod with local volumes. These hold nothing that outlives the pod.
_SAFE_TO_EVICT = {"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "tmp,cache,shm"}


@dataclass(frozen=True)
class EngineDefaults:
    """What the operator was started with, for what a model leaves out. No part of a revision: it restarts nothing."""

    image: str
    pod: PodSettings = field(default_factory=dict)
    closed: bool = False  # engines ask for tokens


def render_template(model: Model, revision: str, defaults: EngineDefaults) -> dict[str, Any]:
    """The pod template for one revision of a model."""
    pod = merge(defaults.pod, model.pod)
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": DRAIN_NOTICE_S + model.drain_timeout_s + END_MARGIN_S,
        "topologySpreadConstraints": _spread(model, pod),
        "tolerations": _tolerations(model),
        "containers": [_container(model, pod, defaults)],
        "volumes": _volumes(model, pod, defaults),
        **{name: pod[name] for name in _SAME_NAME if pod.get(name)},
    }
    if context := security.of_pod(pod):
        spec["securityContext"] = context
    if model.placement.node_selector:
        spec["nodeSelector"] = dict(model.placement.node_selector)
    if model.placement.priority_class_name:
        spec["priorityClassName"] = model.placement.priority_class_name
    metadata = {
        "labels": {**pod.get("labels", {}), **model_labels(model.name), LABEL_REVISION: revision},
        "annotations": {**_SAFE_TO_EVICT, **pod.get("annotations", {})},
    }
    return {"metadata": metadata, "spec": spec}


def model_path(source: str) -> str:
    """The path that the engine is given: `image:///a` is /a, `pvc://claim/a` is /models/pvc/a."""
    scheme, _, rest = source.partition("://")
    return rest if scheme == "image" else f"{PVC_MOUNT}/{rest.partition('/')[2]}"


def claim_of(source: str) -> str | None:
    """The PersistentVolumeClaim that a source names, if it names one."""
    scheme, _, rest = source.partition("://")
    return rest.partition("/")[0] if scheme == "pvc" else None


def engine_arguments(model: Model, *, closed: bool = False) -> list[str]:
    """The command line after `topmast`."""
    engine = model.engine
    # `::` answers on IPv4 and on IPv6, and on IPv4 alone where a node has no other.
    arguments = ["serve", model_path(model.source), "--host", "::", "--admin-host", "::"]
    for name in (model.name, f"{model.namespace}/{model.name}"):
        arguments += ["--served-model-name", name]
    arguments += ["--dtype", engine.dtype]
    if engine.max_model_len is not None:
        arguments += ["--max-model-len", str(engine.max_model_len)]
    if engine.max_num_seqs is not None:
        arguments += ["--max-num-seqs", str(engine.max_num_seqs)]
    if engine.kv_cache_bytes is not None:
        arguments += ["--kv-cache-bytes", str(quantity.as_bytes(engine.kv_cache_bytes))]
    arguments += ["--drain-timeout-s", str(model.drain_timeout_s), "--drain-notice-s", str(DRAIN_NOTICE_S)]
    if closed:
        arguments += access.arguments(model)
    return [*arguments, *engine.extra_args]


def environment(model: Model, pod: PodSettings) -> list[dict[str, Any]]:
    """The engine's variables: ours, the operator's defaults, then the model's own, which win over those."""
    values: dict[str, EnvironmentValue] = {"HOME": "/tmp", "XDG_CACHE_HOME": "/cache"}
    for item in pod.get("env", ()):
        values[item["name"]] = item["valueFrom"] if "valueFrom" in item else item.get("value", "")
    values |= dict(model.engine.env)
    return [
        {"name": name, "value": value} if isinstance(value, str) else {"name": name, "valueFrom": dict(value)}
        for name, value in values.items()
    ]


def _container(model: Model, pod: PodSettings, defaults: EngineDefaults) -> dict[str, Any]:
    probes = pod.get("probes", {})
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": model.engine.image or defaults.image,
        "imagePullPolicy": "IfNotPresent",
        "args": engine_arguments(model, closed=defaults.closed),
        "env": environment(model, pod),
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "resources": resources(model, pod),
        # The server binds before it loads, so a start-up probe only has to wait for Python's imports; loading is
        # "live but not ready" and may take as long as it takes.
        "startupProbe": _probe("/health", 1, 120, probes.get("startup", {})),
        "livenessProbe": _probe("/health", 5, 3, probes.get("liveness", {})),
        "readinessProbe": _probe("/ready", 1, 2, probes.get("readiness", {})),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(model, pod, defaults),
    }
    if pod.get("envFrom"):
        container["envFrom"] = pod["envFrom"]
    if context := security.of_container(pod):
        container["securityContext"] = context
    return container


def _probe(path: str, period_s: int, failures: int, times: Mapping[str, int]) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
        **times,
    }


def _volumes(model: Model, pod: PodSettings, defaults: EngineDefaults) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": TMP_LIMIT}},
        {"name": "cache", "emptyDir": {"sizeLimit": CACHE_LIMIT}},
    ]
    if claim := claim_of(model.source):
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    if size := pod.get("shmSize"):
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
    if defaults.closed:
        volumes.append(access.volume(model))
    return [*volumes, *pod.get("volumes", ())]


def _mounts(model: Model, pod: PodSettings, defaults: EngineDefaults) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "cache", "mountPath": "/cache"}]
    if claim_of(model.source):
        mounts.append({"name": "model", "mountPath": PVC_MOUNT, "readOnly": True})
    if pod.get("shmSize"):
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if defaults.closed:
        mounts.append(access.mount())
    return [*mounts, *pod.get("volumeMounts", ())]


def _spread(model: Model, pod: PodSettings) -> list[dict[str, Any]]:
    """As asked, over the model's own pods where no selector is given; else over nodes, as far as there are any."""
    mine = {"labelSelector": {"matchLabels": model_labels(model.name)}}
    if "topologySpreadConstraints" in pod:
        return [{**mine, **item} for item in pod["topologySpreadConstraints"]]
    return [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", **mine},
    ]


def _tolerations(model: Model) -> list[dict[str, Any]]:
    mine = [dict(item) for item in model.placement.tolerations]
    named = {item.get("key") for item in mine}
    return mine + [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_LOSS_TOLERATION_S}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in named
    ]
