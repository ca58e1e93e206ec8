"""Every recorded fault, by name. The order is the one in which they are recorded."""

from __future__ import annotations

import base64
from typing import Any

from recorded.faults import (
    ODD_REGISTRY,
    REGISTRY,
    Fault,
    answered,
    claim,
    crashes,
    failed,
    holder,
    policy,
    quota,
    refused,
    unschedulable,
    volume,
    waits,
    warned,
    webhook,
)

CLAIMED = {"model": {"source": "pvc://weights/m.gguf"}}
GOOD = {"model": {"source": "image:///models/smollm2.gguf"}}
GPU = {"resources": {"accelerator": {"count": 1}}}
_GGUF = b"GGUF"


def image(name: str) -> dict[str, Any]:
    return {"engine": {"image": name}}


def script(text: str) -> dict[str, Any]:
    return {"command": ["sh", "-c", text], "args": []}


def env_from(kind: str) -> dict[str, Any]:
    source = {f"{kind}KeyRef": {"name": "team", "key": "token"}}
    return {"engine": {"env": [{"name": "TOKEN", "valueFrom": source}]}}


def model_file(name: str, content: bytes) -> dict[str, Any]:
    """The real engine on a file in a volume, which a ConfigMap is as good as any."""
    files = {name: base64.b64encode(content).decode()}
    return {
        "spec": {
            "model": {"source": f"image:///opt/model/{name}"},
            "pod": {
                "volumes": [{"name": "files", "configMap": {"name": "model"}}],
                "volumeMounts": [{"name": "files", "mountPath": "/opt/model"}],
            },
        },
        "objects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "model"}, "binaryData": files}],
    }


IMAGES = (
    Fault("image-not-found", waits("ImagePullBackOff", "not found"), image(f"{REGISTRY}/team/server:typo")),
    Fault("image-denied", waits("ImagePullBackOff", "401"), image(f"{ODD_REGISTRY}/401/server:1")),
    Fault("image-forbidden", waits("ImagePullBackOff", "403"), image(f"{ODD_REGISTRY}/403/server:1")),
    Fault("registry-busy", waits("ImagePullBackOff", "429"), image(f"{ODD_REGISTRY}/429/server:1")),
    Fault("registry-broken", waits("ImagePullBackOff", "503"), image(f"{ODD_REGISTRY}/503/server:1")),
    Fault("registry-refuses", waits("ImagePullBackOff", "refused"), image("127.0.0.1:1/x:1")),
    Fault("registry-unknown", waits("ImagePullBackOff", "lookup"), image("registry.example/x:1")),
    Fault("image-name-invalid", waits("InvalidImageName"), image("team//server::1")),
    Fault(
        "image-never-pulled", waits("ErrImageNeverPull"), image("team/server:1"), engine={"imagePullPolicy": "Never"}
    ),
)

CONTAINERS = (
    Fault("secret-missing", waits("CreateContainerConfigError", "secret"), env_from("secret")),
    Fault("configmap-missing", waits("CreateContainerConfigError", "configmap"), env_from("configMap")),
    Fault(
        "root-forbidden",
        waits("CreateContainerConfigError", "non-root"),
        {"pod": {"securityContext": {"runAsUser": 0, "runAsNonRoot": True}}},
    ),
    Fault("program-missing", crashes("StartError"), engine={"command": ["/usr/bin/nosuch"]}),
    Fault(
        "sandbox-fails",
        warned("FailedCreatePodSandBox"),
        {"pod": {"runtimeClassName": "recording"}},
        objects=[
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "recording"},
                "handler": "nosuch",
            }
        ],
    ),
    Fault(
        "secret-volume-missing",
        warned("FailedMount"),
        {
            "pod": {
                "volumes": [{"name": "certificates", "secret": {"secretName": "team"}}],
                "volumeMounts": [{"name": "certificates", "mountPath": "/certificates"}],
            }
        },
    ),
)

CLAIMS = (
    Fault("claim-missing", unschedulable("not found"), CLAIMED),
    Fault("claim-without-class", unschedulable("unbound"), CLAIMED, objects=[claim(storageClassName="nosuch")]),
    Fault(
        "claim-waits-for-volume",
        unschedulable("persistent volumes to bind"),
        CLAIMED,
        objects=[
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": "recording-local"},
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            },
            claim(storageClassName="recording-local"),
        ],
    ),
    Fault(
        "claim-being-deleted",
        unschedulable("being deleted"),
        CLAIMED,
        objects=volume("recording-deleted"),
        before=[
            ("wait", "pvc/weights", "--for=jsonpath={.status.phase}=Bound"),
            ("patch", "pvc", "weights", "--type=merge", "-p", '{"metadata": {"finalizers": ["example.com/keep"]}}'),
            ("delete", "pvc", "weights", "--wait=false"),
        ],
        after=[("patch", "pvc", "weights", "--type=merge", "-p", '{"metadata": {"finalizers": []}}')],
    ),
    Fault(
        "claim-lost-its-volume",
        unschedulable("non-existent"),
        CLAIMED,
        objects=volume("recording-lost"),
        before=[
            ("wait", "pvc/weights", "--for=jsonpath={.status.phase}=Bound"),
            ("delete", "pv", "recording-lost", "--wait=false"),
            ("patch", "pv", "recording-lost", "--type=merge", "-p", '{"metadata": {"finalizers": []}}'),
            ("wait", "pvc/weights", "--for=jsonpath={.status.phase}=Lost"),
        ],
    ),
    Fault(
        "claim-in-use",
        unschedulable("ReadWriteOncePod"),
        CLAIMED,
        objects=[
            *volume("recording-in-use", ["ReadWriteOncePod"]),
            holder(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "weights"}}]),
        ],
        before=[("wait", "pod/holder", "--for=condition=Ready")],
    ),
    Fault(
        "volume-elsewhere",
        unschedulable("affinity"),
        CLAIMED,
        objects=volume(
            "recording-elsewhere",
            nodeAffinity={
                "required": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-9"]}
                            ]
                        }
                    ]
                }
            },
        ),
    ),
    Fault("volume-not-there", warned("FailedMount"), CLAIMED, objects=volume("recording-path", path="/nosuch/models")),
)

ENDS = (
    Fault("exit-code", crashes("Error"), engine={"command": ["python3", "-c", "import topmast_nosuch"], "args": []}),
    Fault("killed", crashes("Error"), engine=script("python3 -c 'import os; os.kill(os.getpid(), 9)'; exit $?")),
    Fault("out-of-memory", crashes("OOMKilled"), {**GOOD, "resources": {"memory": "64Mi"}}),
    Fault("bad-arguments", crashes("bogus"), {**GOOD, "engine": {"extraArgs": ["--bogus"]}}),
    Fault("model-not-found", crashes("ModelNotFound"), {"model": {"source": "image:///models/typo.gguf"}}),
    Fault("model-corrupt", crashes("ModelCorrupt"), **model_file("cut.gguf", _GGUF + b"\3\0\0\0" + b"\xff" * 16)),
    Fault("model-unsupported", crashes("ModelUnsupported"), **model_file("old.gguf", _GGUF + b"\1\0\0\0" + bytes(64))),
)

ADMISSION = (
    Fault("quota", refused("exceeded quota"), GPU, objects=[quota(requests_nvidia_com__gpu="0")]),
    Fault("quota-wants-amounts", refused("must specify"), objects=[quota(limits_memory="8Gi")]),
    Fault(
        "limit-range",
        refused("maximum memory"),
        {"resources": {"memory": "2Gi"}},
        objects=[
            {
                "apiVersion": "v1",
                "kind": "LimitRange",
                "metadata": {"name": "team"},
                "spec": {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]},
            }
        ],
    ),
    Fault(
        "pod-security",
        refused("PodSecurity"),
        spec={"pod": {"containerSecurityContext": {"allowPrivilegeEscalation": True}}},
        namespace_labels={"pod-security.kubernetes.io/enforce": "restricted"},
    ),
    Fault(
        "policy",
        refused("cost-center"),
        objects=policy(),
        namespace_labels={"recording": "policy"},
        refusal="cost-center",
    ),
    Fault(
        "webhook-down",
        refused("failed calling webhook"),
        objects=[webhook("pods", "")],
        namespace_labels={"recording": "webhook-pods"},
        refusal="failed calling webhook",
    ),
    Fault("service-account-missing", refused("serviceaccount"), {"pod": {"serviceAccountName": "nosuch"}}),
    Fault("priority-class-missing", refused("PriorityClass"), {"placement": {"priorityClassName": "nosuch"}}),
    Fault("runtime-class-missing", refused("RuntimeClass"), {"pod": {"runtimeClassName": "nosuch"}}),
)

WRITES = (
    Fault("write-invalid", answered("is invalid"), {"engine": {"env": [{"name": "a=b", "value": "c"}]}}, write=True),
    Fault("write-quota", answered("exceeded quota"), objects=[quota(count__deployments_apps="0")], write=True),
    Fault(
        "write-webhook-down",
        answered("failed calling webhook"),
        objects=[webhook("deployments", "apps")],
        namespace_labels={"recording": "webhook-deployments"},
        refusal="failed calling webhook",
        write=True,
    ),
)

FAILED = (
    Fault(
        "evicted",
        failed("Evicted"),
        {"resources": {"ephemeralStorage": "1Mi"}},
        engine=script("yes 0123456789 | head -c 20000000; sleep 600"),
        bare=True,
    ),
    Fault("out-of-cpu", failed("OutOfcpu"), {"resources": {"cpu": "64"}}, change={"nodeName": "node-1"}, bare=True),
    Fault(
        "out-of-gpus",
        failed("OutOfnvidia.com/gpu"),
        {"resources": {"accelerator": {"count": 9}}},
        change={"nodeName": "node-1"},
        bare=True,
    ),
)

LOST = [("kill-node", "node-1"), ("wait", "node/node-1", "--for=condition=Ready=Unknown", "--timeout=120s")]

SCHEDULING = (
    Fault(
        "gated",
        lambda seen: bool(seen.get("pod", {}).get("spec", {}).get("schedulingGates")),
        change={"schedulingGates": [{"name": "example.com/queue"}]},
    ),
    Fault("no-such-label", unschedulable("node affinity"), {"placement": {"nodeSelector": {"gpu": "h200"}}}),
    Fault(
        "gpu-taken",
        unschedulable("Insufficient nvidia.com/gpu"),
        GPU,
        objects=[holder(container={"resources": {"limits": {"nvidia.com/gpu": "1"}}})],
        before=[("wait", "pod/holder", "--for=condition=PodScheduled")],
    ),
    Fault("gpu-too-many", unschedulable("Insufficient nvidia.com/gpu"), {"resources": {"accelerator": {"count": 2}}}),
    Fault("memory-too-large", unschedulable("Insufficient memory"), {"resources": {"memory": "900Gi"}}),
    Fault(
        "tainted",
        unschedulable("untolerated taint"),
        before=[("taint", "node", "node-1", "team=research:NoSchedule")],
        after=[("taint", "node", "node-1", "team-")],
    ),
    Fault("cordoned", unschedulable("unschedulable"), before=[("cordon", "node-1")], after=[("uncordon", "node-1")]),
    Fault("node-lost", unschedulable("untolerated taint"), before=LOST),
    Fault("no-nodes", unschedulable("no nodes"), before=[("delete", "node", "node-1")]),
)

FAULTS = (*IMAGES, *CONTAINERS, *CLAIMS, *ENDS, *ADMISSION, *WRITES, *FAILED, *SCHEDULING)
