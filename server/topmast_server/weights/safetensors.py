"""A model directory as Hugging Face lays it out: config.json and one or several *.safetensors files, Llama family."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from topmast_kernels.cpu.formats import Format
from topmast_server.weights.errors import ModelError, corrupt, unsupported
from topmast_server.weights.files import OnProgress, Place, anonymous_copy
from topmast_server.weights.llama_config import LlamaConfig, read_llama_config
from topmast_server.weights.matrix import (
    LayerWeights,
    Matrix,
    ModelWeights,
    float_matrix,
    outline_matrix,
    outline_vector,
)
from topmast_server.weights.shards import ShardTensor, read_shards

_FLOATS = ("F64", "F32", "F16", "BF16")
_REMEDY = "fetch the model's files again"


def load_safetensors(folder: Path, on_progress: OnProgress, place: Place) -> ModelWeights:
    """Read the directory; weights become float32. Raises ModelError, and for headers before any weight is read."""
    config, tensors = read_llama_config(folder), read_shards(folder)
    _assemble(config, _Tensors(folder, tensors))
    files = _Files(folder, tensors, on_progress, place)
    weights = _assemble(config, _Tensors(folder, tensors, files))
    files.finish()
    return weights


def outline_safetensors(folder: Path) -> ModelWeights:
    """What `load_safetensors` gives, without the weights: from config.json and the files' headers alone."""
    config = read_llama_config(folder)
    return _assemble(config, _Tensors(folder, read_shards(folder)))


def _assemble(config: LlamaConfig, tensors: _Tensors) -> ModelWeights:
    shape = config.shape
    embedding = tensors.matrix("model.embed_tokens.weight", shape.vocabulary, shape.hidden)
    wide, narrow = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layers = []
    for index in range(shape.layers):
        at = f"model.layers.{index}."
        layers.append(
            LayerWeights(
                attention_norm=tensors.vector(at + "input_layernorm.weight", shape.hidden),
                query=tensors.matrix(at + "self_attn.q_proj.weight", wide, shape.hidden),
                key=tensors.matrix(at + "self_attn.k_proj.weight", narrow, shape.hidden),
                value=tensors.matrix(at + "self_attn.v_proj.weight", narrow, shape.hidden),
                attention_out=tensors.matrix(at + "self_attn.o_proj.weight", shape.hidden, wide),
                mlp_norm=tensors.vector(at + "post_attention_layernorm.weight", shape.hidden),
                gate=tensors.matrix(at + "mlp.gate_proj.weight", shape.mlp, shape.hidden),
                up=tensors.matrix(at + "mlp.up_proj.weight", shape.mlp, shape.hidden),
                down=tensors.matrix(at + "mlp.down_proj.weight", shape.hidden, shape.mlp),
            )
        )
    return ModelWeights(
        shape=shape,
        embedding=embedding,
        layers=layers,
        final_norm=tensors.vector("model.norm.weight", shape.hidden),
        head=embedding if config.tied else tensors.matrix("lm_head.weight", shape.vocabulary, shape.hidden),
        stop_ids=config.stop_ids,
        format="safetensors",
    )


class _Tensors:
    """Named tensors as matrices and vectors, shapes checked by the headers; without `files` mere outlines of them."""

    def __init__(self, folder: Path, tensors: dict[str, ShardTensor], files: _Files | None = None) -> None:
        self._folder, self._tensors, self._files = folder, tensors, files

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        self._require(name, (rows, columns))
        if self._files is None:
            return outline_matrix(Format.F32, rows, columns)
        return float_matrix(self._files.take(name))

    def vector(self, name: str, size: int) -> NDArray[np.float32]:
        self._require(name, (size,))
        return outline_vector(size) if self._files is None else self._files.take(name)

    def _require(self, name: str, shape: tuple[int, ...]) -> None:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise corrupt(f"{self._folder} has no tensor {name}; {_REMEDY}.")
        if tensor.shape != shape:
            raise corrupt(
                f"{self._folder}: {name} is {list(tensor.shape)}, config.json asks for {list(shape)}; {_REMEDY}."
            )
        if tensor.dtype not in _FLOATS:
            readable = ", ".join(_FLOATS)
            raise unsupported(f"{self._folder} stores {name} as {tensor.dtype}; weights in {readable} are read.")


class _Shard:
    """One file, opened when the first of its tensors is wanted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: Any = None
        self.names: set[str] = set()  # tensors that were not taken yet

    def take(self, name: str, on_block: Callable[[int], None] | None) -> Any:
        """A tensor, for the last time; the memory goes with the last one. `on_block`: read the file, do not map it."""
        if self._open is None:
            self._open = self._mapped(str(self._path)) if on_block is None else self._copied(on_block)
        tensor = self._open.get_tensor(name)
        self.names.discard(name)
        if not self.names:
            self._open = None
        return tensor

    def _copied(self, on_block: Callable[[int], None]) -> Any:
        descriptor = anonymous_copy(self._path, on_block)
        try:
            return self._mapped(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)

    def _mapped(self, path: str) -> Any:
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise corrupt(f"{self._path} is cut off or corrupt ({error}); {_REMEDY}.") from error


class _Files:
    """Tensors' values from all files of the directory; bfloat16, which NumPy lacks, is read through torch.

    Local files are mapped, remote ones read; either way each tensor is copied to float32 once.
    """

    def __init__(self, folder: Path, tensors: dict[str, ShardTensor], on_progress: OnProgress, place: Place) -> None:
        self._folder, self._on_progress, self._done, self._place = folder, on_progress, 0, place
        shards = {tensor.file: _Shard(tensor.file) for tensor in tensors.values()}
        self._where = {name: shards[tensor.file] for name, tensor in tensors.items()}
        for name, shard in self._where.items():
            shard.names.add(name)
        self._total = sum(path.stat().st_size for path in shards)
        on_progress(0, self._total)

    def take(self, name: str) -> NDArray[np.float32]:
        """A tensor's float32 values, for the last time."""
        try:
            tensor = self._where[name].take(name, self._advance if self._place.remote else None)
            values: NDArray[np.float32] = tensor.float().numpy().copy()
        except MemoryError as error:
            raise ModelError("OutOfMemory", f"{self._folder} does not fit; raise the memory limit.") from error
        if not self._place.remote:
            self._advance(tensor.numel() * tensor.element_size())
        return values

    def finish(self) -> None:
        """Headers, and tensors that a Llama does not need, count as done."""
        self._advance(self._total - self._done)

    def _advance(self, size: int) -> None:
        self._done += size
        self._on_progress(self._done, self._total)
