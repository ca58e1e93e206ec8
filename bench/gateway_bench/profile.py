"""Where the microseconds of one event go: the throughput run with the gateway under cProfile.

The profiler costs more than what it measures, so shares count here and absolute figures do not.
"""

from __future__ import annotations

import pstats
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from gateway_bench import front, scenarios

_LINES = 30


def show(scale: float) -> str:
    """The functions with the most own time, in microseconds per event."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile"
        under = ("-m", "cProfile", "-o", str(path))
        with front.control_plane() as stage, front.running(stage, *under) as running:
            figures = uvloop.run(scenarios.throughput(running, scale))
        stats: Any = pstats.Stats(str(path))
    total_s = stats.total_tt
    rows = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:_LINES]
    lines = [
        f"{figures['events_per_s']} events/s under the profiler; own time in % of {total_s:.1f} s, calls, function"
    ]
    for (file, line, name), (_, calls, own_s, _, _) in rows:
        where = "/".join(Path(file).parts[-2:]) + f":{line}" if line else ""
        lines.append(f"{own_s / total_s:6.1%} {calls:9d}  {name}  {where}")
    return "\n".join(lines)
