"""What the numbers are compared with: the machine's own copy bandwidth and the cost of an empty kernel in a graph."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
import triton.language as tl

from kernel_bench.clock import Clock

COPY_BYTES = 1 << 30


@triton.jit
def _nothing(x):
    tl.store(x, 0)


@dataclass(frozen=True)
class Machine:
    """copy_gb_per_s: bytes read plus bytes written. node_us: one more tiny kernel in a graph."""

    name: str
    torch: str
    triton: str
    driver: str
    commit: str
    copy_gb_per_s: float | None
    node_us: float | None

    def floor_us(self, bytes_moved: int) -> float | None:
        if self.copy_gb_per_s is None or self.node_us is None:
            return None
        return self.node_us + bytes_moved / self.copy_gb_per_s / 1e3


def describe(clock: Clock) -> Machine:
    """Measured first, because all other numbers are read beside these."""
    commit = _output(["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"])
    versions = {"torch": torch.__version__, "triton": triton.__version__, "commit": commit}
    if not clock.on_gpu:
        return Machine(platform.machine(), driver="", copy_gb_per_s=None, node_us=None, **versions)
    source = torch.empty(COPY_BYTES, dtype=torch.int8, device=clock.device).fill_(1)
    target = torch.empty_like(source)
    copy = clock.measure([lambda: target.copy_(source)] * 2, cold=True)
    word = torch.zeros(1, dtype=torch.int32, device=clock.device)
    short, long = (clock.measure([lambda: _nothing[(1,)](word)] * count, cold=False) for count in (20, 200))
    # By the slope, so that the start of the graph itself does not count.
    node = (long.median_us * 200 - short.median_us * 20) / 180
    driver = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    name = torch.cuda.get_device_name(clock.device)
    return Machine(name, driver=driver, copy_gb_per_s=2 * COPY_BYTES / copy.median_us / 1e3, node_us=node, **versions)


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
