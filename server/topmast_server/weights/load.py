"""One entry for all model files: path in, weights or their outline out, or a ModelError that says what to do."""

from __future__ import annotations

from pathlib import Path

from topmast_server.weights.files import OnProgress, Place, place_of
from topmast_server.weights.gguf_llama import load_gguf, outline_gguf
from topmast_server.weights.matrix import ModelWeights
from topmast_server.weights.model_path import require_model


def load_weights(path: Path, on_progress: OnProgress, place: Place | None = None) -> ModelWeights:
    """A .gguf file, or a directory with config.json and *.safetensors; `place` is where it lies, found out if None."""
    require_model(path)
    place = place_of(path) if place is None else place
    if path.is_dir():
        from topmast_server.weights.safetensors import load_safetensors  # a library that a GGUF file does not need

        return load_safetensors(path, on_progress, place)
    return load_gguf(path, on_progress, place)


def outline_weights(path: Path) -> ModelWeights:
    """What `load_weights` would give, by headers alone: shapes and sizes are true, and there is no weight in it.

    Takes some megabytes whatever the model's size. Raises what `load_weights` would raise, but for faults that only the
    weights' own bytes show and for memory.
    """
    require_model(path)
    if path.is_dir():
        from topmast_server.weights.safetensors import outline_safetensors

        return outline_safetensors(path)
    return outline_gguf(path)
