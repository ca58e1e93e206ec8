"""CRDs of others that the chart has objects of, from their own Go modules: the real ones, and nothing checked in."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

# The module, the checksum that Go's own database has for it, and the file.
_CRDS = (
    (
        "sigs.k8s.io/gateway-api@v1.6.3",
        "h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
    (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ),
)


def foreign_crds() -> list[Path]:
    """HTTPRoute and PodMonitor. Go keeps the modules, so that only the first call needs its proxy."""
    return [_module(name, checksum) / file for name, checksum, file in _CRDS]


def _module(name: str, checksum: str) -> Path:
    done = subprocess.run(
        ["go", "mod", "download", "-json", name], cwd="/", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{name} cannot be had; see that Go can reach its module proxy: {done.stdout}"
    found = json.loads(done.stdout)
    assert found["Sum"] == checksum, f"{name} is not what it was: {found['Sum']}"
    return Path(found["Dir"])
