"""What the figures were made on, and whether anybody else was using it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any, Final

_FLAGS: Final = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
_QUIET_SHARE: Final = 0.1
_PACKAGES: Final = ("torch", "numba", "numpy", "uvicorn")


def describe() -> dict[str, Any]:
    """Taken before a scenario starts. `quiet` is False where others were using the machine."""
    info = Path("/proc/cpuinfo").read_text()
    flags = set(re.search(r"^flags\s*:(.*)$", info, re.MULTILINE)[1].split())  # type: ignore[index]
    load = os.getloadavg()[0]
    busy = others_share()
    return {
        "cpu": _cpu_name(info),
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "commit": commit(),
        "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "load_average": round(load, 2),
        "busy_before": round(busy, 3),
        "quiet": busy < _QUIET_SHARE,
    }


def slug() -> str:
    """A name for files: the CPU and the instructions that decide."""
    info = Path("/proc/cpuinfo").read_text()
    kind = "avx512-bf16" if fast_bfloat16() else "avx512" if "avx512f" in info else "avx2"
    return re.sub(r"[^a-z0-9]+", "-", f"{_cpu_name(info)} {kind}".lower()).strip("-")


def fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself."""
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def commit() -> str:
    """Of this checkout, with a plus where files differ from it."""
    run = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def others_share(seconds: float = 0.5) -> float:
    """The share of all cores that was in use while we slept: 0 on a quiet machine, 1 on a full one."""
    before = used_s()
    time.sleep(seconds)
    return (used_s() - before) / seconds / (os.cpu_count() or 1)


def used_s() -> float:
    """CPU time of everybody on all cores since boot. Idle and waiting for a disk count as unused."""
    fields = [int(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu_name(info: str) -> str:
    found = {
        key: re.search(rf"^{key}\s*:\s*(.*)$", info, re.MULTILINE) for key in ("model name", "cpu family", "model")
    }
    name, family, model = (match[1] if match else "?" for match in found.values())
    return f"{name} family {family} model {model}"
