"""What the engine computes on, as `/state` tells it: who reserved an accelerator looks there (docs/contracts.md)."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def cpu_device(cpuinfo: Path = _CPUINFO) -> dict[str, str | int]:
    """This machine's processor. `count` is of accelerators in use, so 0."""
    return {"kind": "cpu", "name": _model_name(cpuinfo) or platform.machine() or "unknown", "count": 0}


def _model_name(cpuinfo: Path) -> str:
    """As the kernel calls it; empty where it has no name (many ARM machines)."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
