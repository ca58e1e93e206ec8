"""The example for gateways of others is valid where their real definitions are installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from gateway.conftest import ROOT
from gateway.lab.stage import Stage
from topmast_cluster.cluster import Cluster

DEFINITIONS = {
    "sigs.k8s.io/gateway-api@v1.3.0": "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    "sigs.k8s.io/gateway-api-inference-extension@v1.0.1": (
        "config/crd/bases/inference.networking.k8s.io_inferencepools.yaml"
    ),
}


@pytest.fixture
def definitions(tmp_path: Path) -> list[Path]:
    """From the Go modules of both projects."""
    (tmp_path / "go.mod").write_text("module example\n")
    found = []
    for module, path in DEFINITIONS.items():
        answer = subprocess.run(
            ["go", "mod", "download", "-json", module], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        found.append(Path(json.loads(answer.stdout)["Dir"]) / path)
    return found


def test_the_example_with_the_inference_extension_is_accepted(
    cluster: Cluster, stage: Stage, definitions: list[Path], namespace: str
) -> None:
    for path in definitions:
        cluster.apply_crds(path)
    cluster.kubectl("apply", "-n", namespace, "-f", str(ROOT / "examples" / "gateway-api.yaml"))
    pool = cluster.kubectl("get", "inferencepool", "smollm2", "-n", namespace, "-o", "json").stdout
    spec = json.loads(pool)["spec"]
    assert spec["selector"]["matchLabels"] == {"topmast.dev/model": "smollm2"}  # the label that engine pods carry
    assert spec["targetPorts"] == [{"number": 8000}]
