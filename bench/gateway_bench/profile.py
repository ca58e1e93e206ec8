"""Where the microseconds of an event and of a request go: the busy runs with the gateway under cProfile.

The profiler costs more than what it measures, so shares count here and absolute figures do not.
"""

from __future__ import annotations

import pstats
import tempfile
from pathlib import Path
from typing import Any, Final

import uvloop

from gateway_bench import front, scenarios

_LINES: Final = 30
_BUSY: Final = ("throughput", "requests")


def show(scale: float) -> str:
    """The functions with the most own time, for each of the busy runs."""
    return "\n\n".join(_profile(name, scale) for name in _BUSY)


def _profile(name: str, scale: float) -> str:
    with front.control_plane() as stage, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile"
        with front.running(stage, "-m", "cProfile", "-o", str(path)) as running:
            figures = uvloop.run(scenarios.SCENARIOS[name](running, scale))
        stats: Any = pstats.Stats(str(path))
    total_s = stats.total_tt
    rows = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:_LINES]
    lines = [f"{name} under the profiler: {figures}; own time in % of {total_s:.1f} s, calls, function"]
    for (file, line, function), (_, calls, own_s, _, _) in rows:
        where = "/".join(Path(file).parts[-2:]) + f":{line}" if line else ""
        lines.append(f"{own_s / total_s:6.1%} {calls:9d}  {function}  {where}")
    return "\n".join(lines)
