"""Where the memory goes, told at the start, and no start that would end in the kernel's out-of-memory killer.

The KV cache costs nothing until it is used, so one that is too large kills hours later. It is cut to what is left
beside weights, libraries and the API process, or refused where somebody asked for more.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from topmast_server.engine.config import EngineConfig
from topmast_server.engine.memory import KVSize, memory_limit_bytes, size_kv, token_bytes
from topmast_server.weights.errors import ModelError
from topmast_server.weights.matrix import LlamaShape

_RESERVE_BYTES: Final = 256 << 20  # activations, kernels in a second form, requests
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes. `limit` is the container's or the machine's; `taken` is what both processes hold before there is KV."""

    limit: int
    taken: int
    reserve: int

    @property
    def room(self) -> int:
        """What the KV cache may take."""
        return max(0, self.limit - self.taken - self.reserve)

    def note(self, size: KVSize, block_size: int, kv_bytes: int, weights_bytes: int) -> str:
        """One line for the start."""
        left = self.limit - self.taken - kv_bytes
        return (
            f"memory: {_mib(weights_bytes)} weights, {_mib(kv_bytes)} KV at most ({size.blocks} blocks, "
            f"{size.blocks * block_size} tokens), {_mib(self.taken - weights_bytes)} programs; "
            f"{_mib(left)} of {_mib(self.limit)} left"
        )


def plan_memory(weights_bytes: int) -> MemoryPlan:
    """What is there now, with the weights loaded. They may be stored once more in the form that the kernels like."""
    taken = _resident_bytes("self") + _resident_bytes(str(os.getppid()))
    limit = min(memory_limit_bytes(), taken + _available_bytes())
    return MemoryPlan(limit, max(taken, weights_bytes), _RESERVE_BYTES + weights_bytes)


def fit_kv(config: EngineConfig, shape: LlamaShape, bytes_per_value: int, plan: MemoryPlan) -> KVSize:
    """`size_kv` within the plan's room; raises ModelError OutOfMemory where that is too little."""
    size = size_kv(config, shape, bytes_per_value)
    if kv_bytes(size, config, shape, bytes_per_value) <= plan.room:
        return size
    if config.kv_cache_bytes is not None:
        raise ModelError(
            "OutOfMemory",
            f"--kv-cache-bytes {config.kv_cache_bytes} does not fit: of {_mib(plan.limit)} of memory "
            f"{_mib(plan.taken)} are taken and {_mib(plan.reserve)} kept for the work; give at most {plan.room}, "
            "or raise the memory limit.",
        )
    return size_kv(replace(config, kv_cache_bytes=plan.room), shape, bytes_per_value)


def kv_bytes(size: KVSize, config: EngineConfig, shape: LlamaShape, bytes_per_value: int) -> int:
    """Of the whole cache, when it is full."""
    return size.blocks * config.block_size * token_bytes(shape, bytes_per_value)


def _resident_bytes(process: str) -> int:
    """Of a process that may be gone: 0 then."""
    return _field(_PROC / process / "status", "VmRSS:")


def _available_bytes() -> int:
    """What the machine could give without swapping; without a word of it, anything."""
    return _field(_PROC / "meminfo", "MemAvailable:") or 1 << 62


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
