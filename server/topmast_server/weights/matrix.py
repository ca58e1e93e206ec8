"""A model's weights in memory, as its file stores them, whatever the file's format. NumPy only.

Everything is float32 or block-quantised; half-precision matrices become float32 when they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.formats import Format, dequantise, row_bytes


@dataclass(frozen=True, slots=True)
class Matrix:
    """`rows` x `columns` weights: y = W x. `raw` is uint8 [rows, bytes per row] and contiguous."""

    format: Format
    raw: NDArray[np.uint8]
    rows: int
    columns: int

    def dense(self) -> NDArray[np.float32]:
        """The float32 weights [rows, columns]."""
        return dequantise(self.raw, self.format, self.columns)

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The float32 weights of some rows: an embedding lookup."""
        return dequantise(self.raw[ids], self.format, self.columns)


def float_matrix(values: NDArray[np.float32]) -> Matrix:
    """A plain float32 matrix."""
    values = np.ascontiguousarray(values, np.float32)
    return Matrix(Format.F32, values.view(np.uint8).reshape(values.shape[0], -1), *values.shape)


def outline_matrix(kind: Format, rows: int, columns: int) -> Matrix:
    """A matrix of which only the size is true: it takes no memory, however large it is."""
    return Matrix(kind, np.broadcast_to(np.uint8(0), (rows, row_bytes(kind, columns))), rows, columns)


def outline_vector(size: int) -> NDArray[np.float32]:
    """A vector of which only the size is true."""
    return np.broadcast_to(np.float32(0), (size,))


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's stretched rotary frequencies."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Every number that defines a decoder of the Llama family."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    context: int
    epsilon: float
    rope_base: float
    rope_interleaved: bool  # pairs (2i, 2i+1), as llama.cpp's converter orders q and k, instead of (i, i + D/2)
    rope_scaling: Llama3Scaling | None = None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer; norms are float32 vectors."""

    attention_norm: NDArray[np.float32]
    query: Matrix
    key: Matrix
    value: Matrix
    attention_out: Matrix
    mlp_norm: NDArray[np.float32]
    gate: Matrix
    up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """The whole model. `head` is `embedding` where they are tied."""

    shape: LlamaShape
    embedding: Matrix
    layers: list[LayerWeights]
    final_norm: NDArray[np.float32]
    head: Matrix
    stop_ids: tuple[int, ...]
    format: str  # gguf | safetensors
    rope_factors: NDArray[np.float32] | None = None  # divisors of the rotary frequencies, where the file has them
    architecture: ClassVar[str] = "llama"

    @property
    def bytes(self) -> int:
        """Memory that the weights take as they were read; tied ones count once."""
        raws = [m.raw for w in self.layers for m in (w.query, w.key, w.value, w.attention_out, w.gate, w.up, w.down)]
        outer = {id(m): m.raw.nbytes for m in (self.embedding, self.head)}
        return sum(raw.nbytes for raw in raws) + sum(outer.values())

    @property
    def parameters(self) -> int:
        """Number of weights; tied ones count once."""
        per_layer = [
            sum(m.rows * m.columns for m in (w.query, w.key, w.value, w.attention_out, w.gate, w.up, w.down))
            + w.attention_norm.size
            + w.mlp_norm.size
            for w in self.layers
        ]
        outer = {id(m): m.rows * m.columns for m in (self.embedding, self.head)}
        return sum(per_layer) + sum(outer.values()) + self.final_norm.size
