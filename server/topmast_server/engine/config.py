"""What one engine process is told at its start. It knows no HTTP and no defaults of the command line's own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """`model` is a `.gguf` file or a directory with config.json, tokenizer.json and *.safetensors.

    None means "choose": max_model_len from the model (and what the KV cache can hold), kv_cache_bytes from the
    memory limit.
    """

    model: str
    dtype: str = "auto"  # auto | float32 (exact) | bfloat16
    max_model_len: int | None = None  # tokens, prompt and answer together
    max_num_seqs: int = 32
    kv_cache_bytes: int | None = None
    block_size: int = 32  # tokens per KV block
    itl_goal_s: float = 0.15  # how long one step may take while somebody waits for the next token
    prefix_cache: bool = True  # KV blocks of earlier requests are used again
    batch_invariant: bool = False  # nothing stands in for kernels whose bits no batch changes

    def to_json(self) -> str:
        """One line for the engine's command line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> EngineConfig:
        """The inverse of `to_json`."""
        return EngineConfig(**json.loads(text))
