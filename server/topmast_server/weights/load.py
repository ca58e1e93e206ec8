"""One entry for all model files: path in, weights out, or a ModelError that says what to do."""

from __future__ import annotations

from pathlib import Path

from topmast_server.weights.errors import not_found, unsupported
from topmast_server.weights.files import OnProgress, Place, place_of
from topmast_server.weights.gguf_llama import load_gguf
from topmast_server.weights.matrix import ModelWeights


def load_weights(path: Path, on_progress: OnProgress, place: Place | None = None) -> ModelWeights:
    """A .gguf file, or a directory with config.json and *.safetensors; `place` is where it lies, found out if None."""
    place = place_of(path) if place is None else place
    if path.is_dir():
        from topmast_server.weights.safetensors import load_safetensors  # loads torch, which a GGUF file does not need

        return load_safetensors(path, on_progress, place)
    if not path.exists():
        raise not_found(f"{path} does not exist; give a .gguf file or a directory with config.json and *.safetensors.")
    if path.suffix == ".safetensors":
        raise unsupported(f"{path} is one file of a model; give the directory that holds it and config.json.")
    return load_gguf(path, on_progress, place)
