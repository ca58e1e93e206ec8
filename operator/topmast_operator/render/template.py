"""The pod template of an engine, rendered once per revision and pinned from then on.

Must satisfy the restricted pod security standard, and give the pod no credentials of the cluster.
"""

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
from topmast_operator.api.resource import Model

USER = 65532
PVC_MOUNT = "/models/pvc"
NODE_LOSS_TOLERATION_S = 30  # the default of 300 s would leave a lost node's replica unreplaced for five minutes
END_MARGIN_S = 10  # between the engine's own deadline and the kubelet's SIGKILL


def render_template(model: Model, revision: str, default_image: str) -> dict[str, Any]:
    """The pod template for one revision of a model."""
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": DRAIN_NOTICE_S + model.drain_timeout_s + END_MARGIN_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": model_labels(model.name)},
            }
        ],
        "tolerations": _tolerations(model),
        "containers": [_container(model, default_image)],
        "volumes": _volumes(model),
    }
    if model.placement.node_selector:
        pod["nodeSelector"] = dict(model.placement.node_selector)
    if model.placement.priority_class_name:
        pod["priorityClassName"] = model.placement.priority_class_name
    return {"metadata": {"labels": {**model_labels(model.name), LABEL_REVISION: revision}}, "spec": pod}


def model_path(source: str) -> str:
    """The path that the engine is given: `image:///a` is /a, `pvc://claim/a` is /models/pvc/a."""
    scheme, _, rest = source.partition("://")
    return rest if scheme == "image" else f"{PVC_MOUNT}/{rest.partition('/')[2]}"


def claim_of(source: str) -> str | None:
    """The PersistentVolumeClaim that a source names, if it names one."""
    scheme, _, rest = source.partition("://")
    return rest.partition("/")[0] if scheme == "pvc" else None


def engine_arguments(model: Model) -> list[str]:
    """The command line after `topmast`."""
    engine = model.engine
    arguments = ["serve", model_path(model.source), "--host", "0.0.0.0", "--admin-host", "0.0.0.0"]
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
    return [*arguments, *engine.extra_args]


def _container(model: Model, default_image: str) -> dict[str, Any]:
    environment = {"HOME": "/tmp", "XDG_CACHE_HOME": "/cache", **dict(model.engine.env)}
    mounts: list[dict[str, Any]] = [{"name": "tmp", "mountPath": "/tmp"}, {"name": "cache", "mountPath": "/cache"}]
    if claim_of(model.source):
        mounts.append({"name": "model", "mountPath": PVC_MOUNT, "readOnly": True})
    return {
        "name": CONTAINER,
        "image": model.engine.image or default_image,
        "imagePullPolicy": "IfNotPresent",
        "args": engine_arguments(model),
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": [
            {"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "resources": _resources(model),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # The server binds before it loads, so a start-up probe only has to wait for Python's imports; loading is
        # "live but not ready" and may take as long as it takes.
        "startupProbe": _probe("/health", period_s=1, failures=120),
        "livenessProbe": _probe("/health", period_s=5, failures=3),
        "readinessProbe": _probe("/ready", period_s=1, failures=2),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }


def _probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _resources(model: Model) -> dict[str, Any]:
    wanted: dict[str, str] = {}
    if model.resources.cpu is not None:
        wanted["cpu"] = quantity.cpu(model.resources.cpu)
    if model.resources.memory is not None:
        wanted["memory"] = quantity.memory(model.resources.memory)
    if accelerator := model.resources.accelerator:
        wanted[accelerator.resource] = str(accelerator.count)
    return {"requests": wanted, "limits": dict(wanted)} if wanted else {}


def _volumes(model: Model) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [{"name": "tmp", "emptyDir": {}}, {"name": "cache", "emptyDir": {}}]
    if claim := claim_of(model.source):
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
    return volumes


def _tolerations(model: Model) -> list[dict[str, Any]]:
    mine = [dict(item) for item in model.placement.tolerations]
    named = {item.get("key") for item in mine}
    return mine + [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_LOSS_TOLERATION_S}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        if key not in named
    ]
