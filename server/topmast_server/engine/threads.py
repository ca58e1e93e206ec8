"""How many threads the engine computes with, decided before any numeric library is loaded.

libgomp, MKL and numba read their environment once, when they are loaded; so the parent sets it for the engine
process. Spinning is bounded: with shared cores an unbounded spin-wait turned 8 ms steps into 983 ms ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from topmast_kernels.cpu.cache import openmp_folder

_CGROUP = Path("/sys/fs/cgroup")
_SPIN_COUNT = "1000"  # measured: 2 % slower than endless spinning on idle cores, bounded on busy ones


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Whole cores that this process may use: the smaller of its affinity and its cgroup quota, at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_cores(cgroup)
    return max(1, min(allowed, int(quota)) if quota is not None else allowed)


def thread_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for the engine process: `base` (default: ours) and the thread settings it does not set yet."""
    environment = dict(os.environ if base is None else base)
    threads = environment.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    environment.setdefault("MKL_NUM_THREADS", threads)
    environment.setdefault("NUMBA_NUM_THREADS", threads)
    environment.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    environment.setdefault("KMP_BLOCKTIME", "0")
    openmp = openmp_folder()
    if openmp is not None:
        rest = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = f"{openmp}:{rest}" if rest else str(openmp)
    return environment


def _quota_cores(cgroup: Path) -> float | None:
    """The CPU quota in cores, or None when there is none (cgroup v2, then v1)."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        micros = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
        return micros / period_us if micros > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
