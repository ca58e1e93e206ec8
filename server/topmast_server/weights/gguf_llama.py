"""A Llama-family GGUF file as ModelWeights, its blocks kept as they are where the kernels read them.

The converter of llama.cpp permutes the rows of q and k so that rotary pairs are neighbours. They stay so: rotating
neighbours gives the same dot products, and a permuted copy would cost start-up time and memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.formats import Format
from topmast_server.weights.errors import ModelError, corrupt, unsupported
from topmast_server.weights.files import OnProgress, Place, read_into
from topmast_server.weights.gguf import GGUFFile, TensorPlace, read_gguf
from topmast_server.weights.matrix import (
    LayerWeights,
    LlamaShape,
    Matrix,
    ModelWeights,
    float_matrix,
    outline_matrix,
    outline_vector,
)
from topmast_server.weights.same_weights import AS_Q8_0, as_q8_0
from topmast_server.weights.tokenizer import stop_ids

_QUANTISED = {
    **{"Q4_0": Format.Q4_0, "Q4_1": Format.Q4_1, "Q8_0": Format.Q8_0},
    **dict.fromkeys(AS_Q8_0, Format.Q8_0),
}
_HALVES = ("F16", "BF16")  # become float32
_REMEDY = "fetch the model file again and compare its checksum"


def load_gguf(path: Path, on_progress: OnProgress, place: Place) -> ModelWeights:
    """Read the whole file. Raises ModelError, and for what its header tells before the weights are read."""
    file = read_gguf(path, keep=lambda key: False)
    _assemble(_Tensors(file))
    return _assemble(_Tensors(file, _read_data(file, on_progress, place)))


def outline_gguf(path: Path) -> ModelWeights:
    """What `load_gguf` gives, without the weights: from the header alone, with every check but those of the bytes."""
    return _assemble(_Tensors(read_gguf(path, keep=lambda key: False)))


def _assemble(tensors: _Tensors) -> ModelWeights:
    file = tensors.file
    shape = _shape(file)
    embedding = tensors.matrix("token_embd.weight", shape.vocabulary, shape.hidden)
    wide, narrow = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layers = []
    for index in range(shape.layers):
        at = f"blk.{index}."
        layers.append(
            LayerWeights(
                attention_norm=tensors.vector(at + "attn_norm.weight", shape.hidden),
                query=tensors.matrix(at + "attn_q.weight", wide, shape.hidden),
                key=tensors.matrix(at + "attn_k.weight", narrow, shape.hidden),
                value=tensors.matrix(at + "attn_v.weight", narrow, shape.hidden),
                attention_out=tensors.matrix(at + "attn_output.weight", shape.hidden, wide),
                mlp_norm=tensors.vector(at + "ffn_norm.weight", shape.hidden),
                gate=tensors.matrix(at + "ffn_gate.weight", shape.mlp, shape.hidden),
                up=tensors.matrix(at + "ffn_up.weight", shape.mlp, shape.hidden),
                down=tensors.matrix(at + "ffn_down.weight", shape.hidden, shape.mlp),
            )
        )
    tied = "output.weight" not in file.tensors
    factors = "rope_freqs.weight"
    weights = ModelWeights(
        shape=shape,
        embedding=embedding,
        layers=layers,
        final_norm=tensors.vector("output_norm.weight", shape.hidden),
        head=embedding if tied else tensors.matrix("output.weight", shape.vocabulary, shape.hidden),
        stop_ids=stop_ids(file),
        format="gguf",
        rope_factors=tensors.vector(factors, shape.head_size // 2) if factors in file.tensors else None,
    )
    strange = sorted(set(file.tensors) - tensors.used)
    if strange:
        raise unsupported(f"{file.path} has tensors that a plain Llama decoder does not use, {strange[0]} among them.")
    return weights


def _shape(file: GGUFFile) -> LlamaShape:
    architecture = file.need("general.architecture", str)
    if architecture != "llama":
        raise unsupported(
            f"{file.path} holds the architecture {architecture!r}; from GGUF this server reads 'llama' "
            "(Llama, SmolLM2, Mistral)."
        )
    parts = file.metadata.get("split.count")
    if isinstance(parts, int) and parts > 1:
        raise unsupported(f"{file.path} is one part of several; join them with llama-gguf-split --merge.")
    if file.metadata.get("llama.expert_count"):
        raise unsupported(f"{file.path} is a mixture of experts; dense models are read.")
    scaling = file.metadata.get("llama.rope.scaling.type", "none")
    if scaling != "none":
        raise unsupported(f"{file.path} scales its rotary positions by {scaling!r}; unscaled and Llama 3's are read.")

    def number(key: str) -> int:
        value = int(file.need(f"llama.{key}", int))
        if not 0 < value < 1 << 31:
            raise corrupt(f"{file.path} says llama.{key} = {value}; {_REMEDY}.")
        return value

    heads, hidden = number("attention.head_count"), number("embedding_length")
    kv_heads = number("attention.head_count_kv") if "llama.attention.head_count_kv" in file.metadata else heads
    size = number("attention.key_length") if "llama.attention.key_length" in file.metadata else hidden // heads
    embedding = file.tensors.get("token_embd.weight")
    if heads % kv_heads or size % 2 or size < 2 or embedding is None or len(embedding.shape) != 2:
        raise corrupt(f"{file.path} has impossible attention heads or no token_embd.weight; {_REMEDY}.")
    if number("block_count") > len(file.tensors):
        raise corrupt(f"{file.path} says it has {number('block_count')} layers, but not the tensors; {_REMEDY}.")
    if file.metadata.get("llama.rope.dimension_count", size) != size:
        raise unsupported(f"{file.path} rotates a part of each head only; whole heads are supported.")
    base = float(file.metadata.get("llama.rope.freq_base", 10000.0))
    epsilon = file.need("llama.attention.layer_norm_rms_epsilon", float)
    if not (base > 0 and np.isfinite(base) and 0 <= epsilon < 1):
        raise corrupt(f"{file.path} has the rope base {base} and the epsilon {epsilon}; {_REMEDY}.")
    return LlamaShape(
        vocabulary=embedding.shape[0],
        hidden=hidden,
        layers=number("block_count"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        mlp=number("feed_forward_length"),
        context=number("context_length"),
        epsilon=epsilon,
        rope_base=base,
        rope_interleaved=True,
    )


def _read_data(file: GGUFFile, on_progress: OnProgress, place: Place) -> NDArray[np.uint8]:
    """The file's bytes in memory of our own, so that nobody can change them under us."""
    try:
        data = np.empty(file.bytes, np.uint8)
    except MemoryError as error:
        raise ModelError("OutOfMemory", f"{file.bytes} bytes of weights do not fit; raise the memory limit.") from error
    done = 0

    def on_block(size: int) -> None:
        nonlocal done
        done += size
        on_progress(done, file.bytes)

    on_progress(0, file.bytes)
    read_into(file.path, memoryview(data.data), on_block, remote=place.remote)
    return data


class _Tensors:
    """Named tensors as matrices and vectors, shapes checked; without the file's bytes mere outlines of them."""

    def __init__(self, file: GGUFFile, data: NDArray[np.uint8] | None = None) -> None:
        self.file, self._data = file, data
        self.used: set[str] = set()

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        place = self._place(name, (rows, columns))
        kind = _QUANTISED.get(place.type, Format.F32)
        if self._data is None:
            return outline_matrix(kind, rows, columns)
        raw = self._data[place.offset : place.offset + place.bytes].reshape(rows, -1)
        if place.type in _HALVES:
            return float_matrix(_halves(raw, place.type).reshape(rows, columns))
        return Matrix(kind, as_q8_0(raw, place.type) if place.type in AS_Q8_0 else raw, rows, columns)

    def vector(self, name: str, size: int) -> NDArray[np.float32]:
        place = self._place(name, (size,))
        if place.type in _QUANTISED:
            raise unsupported(f"{self.file.path} stores {name} as {place.type}; vectors are read as F32 or F16.")
        if self._data is None:
            return outline_vector(size)
        raw = self._data[place.offset : place.offset + place.bytes]
        return raw.copy().view(np.float32) if place.type == "F32" else _halves(raw, place.type)

    def _place(self, name: str, shape: tuple[int, ...]) -> TensorPlace:
        place = self.file.tensors.get(name)
        if place is None:
            raise corrupt(f"{self.file.path} has no tensor {name}; {_REMEDY}.")
        if place.shape != shape:
            found: Any = list(place.shape)
            raise corrupt(f"{self.file.path}: {name} is {found}, but the metadata ask for {list(shape)}; {_REMEDY}.")
        self.used.add(name)
        return place


def _halves(raw: NDArray[np.uint8], kind: str) -> NDArray[np.float32]:
    """F16 or BF16 bytes as float32."""
    flat = np.ascontiguousarray(raw).reshape(-1)
    if kind == "F16":
        return flat.view(np.float16).astype(np.float32)
    return (flat.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
