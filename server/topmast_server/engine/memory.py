"""How much KV cache an engine gets: from the memory limit of its container, or as it was told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from topmast_server.engine.config import EngineConfig
from topmast_server.weights.errors import ModelError
from topmast_server.weights.matrix import LlamaShape

_CGROUP = Path("/sys/fs/cgroup")
_SHARE = 0.25  # of the memory limit, where nobody says otherwise
_MOST_BYTES = 2 << 30  # CPUs rarely fill more; --kv-cache-bytes gives more
_LEAST_TOKENS = 256


@dataclass(frozen=True, slots=True)
class KVSize:
    """Blocks to make, and the longest sequence they may hold."""

    blocks: int
    max_model_len: int


def size_kv(config: EngineConfig, shape: LlamaShape, bytes_per_value: int, limit_bytes: int | None = None) -> KVSize:
    """Decide; raises ModelError OutOfMemory with both numbers when what was asked for does not fit."""
    each_bytes = token_bytes(shape, bytes_per_value)
    block_bytes = each_bytes * config.block_size
    asked = config.max_model_len
    if asked is not None and asked > shape.context:
        raise ModelError(
            "ModelUnsupported",
            f"--max-model-len {asked} is more than the model's {shape.context} tokens; lower it.",
        )
    longest = asked or shape.context
    wanted = config.max_num_seqs * longest * each_bytes
    budget = config.kv_cache_bytes
    if budget is None:
        limit = memory_limit_bytes() if limit_bytes is None else limit_bytes
        budget = min(wanted + block_bytes, int(limit * _SHARE), _MOST_BYTES)
    blocks = budget // block_bytes
    tokens = blocks * config.block_size
    if tokens < (asked or _LEAST_TOKENS):
        raise ModelError(
            "OutOfMemory",
            f"The KV cache of {budget} bytes holds {tokens} tokens, but one sequence may need {asked or _LEAST_TOKENS} "
            f"({each_bytes} bytes each); raise the memory limit or --kv-cache-bytes, or lower --max-model-len.",
        )
    return KVSize(blocks, min(longest, tokens))


def token_bytes(shape: LlamaShape, bytes_per_value: int) -> int:
    """Keys and values of one token in all layers."""
    return shape.layers * 2 * shape.kv_heads * shape.head_size * bytes_per_value


def memory_limit_bytes(cgroup: Path = _CGROUP) -> int:
    """The container's memory limit, or the machine's memory."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((cgroup / name).read_text())
        except (OSError, ValueError):  # ValueError: "max"
            continue
        return min(limit, _machine_bytes())
    return _machine_bytes()


def _machine_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 8 << 30
