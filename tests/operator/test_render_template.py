"""The pod of a model, written out: a change of any line is a change of what users run, and must be seen here."""

from __future__ import annotations

from typing import Any

import pytest
from operatorlab.facts import DEFAULTS, model

from topmast_operator.render.template import claim_of, engine_arguments, model_path, render_template

LABELS = {
    "app.kubernetes.io/managed-by": "topmast",
    "app.kubernetes.io/name": "topmast-engine",
    "topmast.dev/model": "m",
}


def test_the_pod_of_a_model_of_ten_lines() -> None:
    assert render_template(model(), "0123abcd", DEFAULTS) == {
        "metadata": {
            "labels": {**LABELS, "topmast.dev/revision": "0123abcd"},
            "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "tmp,cache,shm"},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 43,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": LABELS},
                }
            ],
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{state}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 30,
                }
                for state in ("not-ready", "unreachable")
            ],
            "volumes": [
                {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
                {"name": "cache", "emptyDir": {"sizeLimit": "8Gi"}},
            ],
            "containers": [
                {
                    "name": "engine",
                    "image": "topmast/server:1",
                    "imagePullPolicy": "IfNotPresent",
                    "args": [
                        *("serve", "/models/m.gguf", "--host", "::", "--admin-host", "::"),
                        *("--served-model-name", "m", "--served-model-name", "ns/m", "--dtype", "auto"),
                        *("--drain-timeout-s", "30", "--drain-notice-s", "3"),
                    ],
                    "env": [{"name": "HOME", "value": "/tmp"}, {"name": "XDG_CACHE_HOME", "value": "/cache"}],
                    "ports": [
                        {"name": "http", "containerPort": 8000, "protocol": "TCP"},
                        {"name": "admin", "containerPort": 8001, "protocol": "TCP"},
                    ],
                    "resources": {"requests": {"cpu": "250m", "memory": "1Gi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "startupProbe": probe("/health", 1, 120),
                    "livenessProbe": probe("/health", 5, 3),
                    "readinessProbe": probe("/ready", 1, 2),
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "cache", "mountPath": "/cache"}],
                }
            ],
        },
    }


def probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def test_every_setting_of_the_engine_is_an_argument_and_extra_ones_come_last() -> None:
    asked = model(
        engine={
            **{"dtype": "bfloat16", "maxModelLen": 4096, "maxNumSeqs": 16, "kvCacheBytes": "1Gi"},
            "extraArgs": ["--batch-invariant"],
        },
        drain={"timeoutSeconds": 60},
    )
    assert engine_arguments(asked)[10:] == [
        *("--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "16"),
        *("--kv-cache-bytes", "1073741824", "--drain-timeout-s", "60", "--drain-notice-s", "3", "--batch-invariant"),
    ]
    assert render_template(asked, "r", DEFAULTS)["spec"]["terminationGracePeriodSeconds"] == 73


@pytest.mark.parametrize(
    ("source", "path", "claim"),
    [
        ("image:///models/m.gguf", "/models/m.gguf", None),
        ("pvc://weights/llama/8b.gguf", "/models/pvc/llama/8b.gguf", "weights"),
    ],
)
def test_a_source_is_a_path_and_maybe_a_claim(source: str, path: str, claim: str | None) -> None:
    assert (model_path(source), claim_of(source)) == (path, claim)


def test_a_claim_is_mounted_to_be_read() -> None:
    spec = render_template(model(model={"source": "pvc://weights/8b.gguf"}), "r", DEFAULTS)["spec"]
    assert spec["volumes"][2] == {"name": "model", "persistentVolumeClaim": {"claimName": "weights", "readOnly": True}}
    assert spec["containers"][0]["volumeMounts"][2] == {"name": "model", "mountPath": "/models/pvc", "readOnly": True}


def test_placement_is_the_users_and_waits_for_a_lost_node_only_if_told_so() -> None:
    patient = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
    placement = {"nodeSelector": {"gpu": "h200"}, "tolerations": [patient], "priorityClassName": "high"}
    spec = render_template(model(placement=placement), "r", DEFAULTS)["spec"]
    assert spec["nodeSelector"] == {"gpu": "h200"} and spec["priorityClassName"] == "high"
    assert spec["tolerations"][0] == patient
    assert [item["key"] for item in spec["tolerations"]] == [
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/not-ready",
    ]
