"""One decoder for the Llama family: its weights, its paged KV cache, and one compiled call per step.

float32 unless bfloat16 was asked for; the cache may be narrower than the arithmetic. Torch stands in (eager.py) until
the kernels are compiled.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.layout import Layout, Paged, supported
from topmast_server.models.batch import Batch
from topmast_server.models.lazy_memory import lazy_zeros
from topmast_server.models.precision import Precision
from topmast_server.models.projection import Projection
from topmast_server.models.rope import rope_tables
from topmast_server.weights.matrix import ModelWeights

if TYPE_CHECKING:
    import torch

    from topmast_server.models.kernels import Kernels


class Llama:
    """The model and its KV cache [blocks, bytes of a block], laid out as cpu/layout.py says.

    `kv_dtype` (default: `dtype`) is what keys and values are stored as.
    """

    _PER_LAYER = 4  # projections

    def __init__(
        self,
        weights: ModelWeights,
        dtype: Precision,
        blocks: int,
        block_size: int,
        max_model_len: int,
        *,
        kv_dtype: Precision | None = None,
    ) -> None:
        self.shape, self.dtype, self.block_size = weights.shape, dtype, block_size
        shape, kv_dtype = weights.shape, kv_dtype or dtype
        self._kv_dtype, half = kv_dtype, kv_dtype is Precision.FLOAT16
        self.layout = Layout(
            *(shape.heads, shape.kv_heads, shape.head_size, block_size), half=half, interleaved=shape.rope_interleaved
        )
        block = shape.layers * 2 * shape.kv_heads * block_size * shape.head_size
        self._cache = lazy_zeros(blocks * block * kv_dtype.itemsize).reshape(blocks, -1)
        self.cosines, self.sines = rope_tables(weights, max_model_len)
        self.embedding: Any = weights.embedding  # a Matrix, or Packed once there are kernels
        self.attention_in = [Projection([w.query, w.key, w.value], dtype) for w in weights.layers]
        self.attention_out = [Projection([w.attention_out], dtype) for w in weights.layers]
        self.mlp_in = [Projection([w.gate, w.up], dtype) for w in weights.layers]
        self.mlp_out = [Projection([w.down], dtype) for w in weights.layers]
        self.head = Projection([weights.head], dtype)
        self.norms = np.stack([np.stack([w.attention_norm, w.mlp_norm]) for w in weights.layers])
        self.final_norm = np.array(weights.final_norm)
        self.kernels: Kernels | None = None
        self._exact = True
        layers = zip(self.attention_in, self.attention_out, self.mlp_in, self.mlp_out, strict=True)
        self.projections = [*chain.from_iterable(layers), self.head]  # in the order of their use
        taken = kv_dtype is not Precision.BFLOAT16 and supported(self.layout)
        self.compilable = taken and all(projection.compilable for projection in self.projections)
        self._packed: list[Any] = []  # the tables hold addresses of it
        self._tables: Any = None
        self._scratch: Any = None
        self._scratch_rows = 0
        self._logits = np.empty((0, shape.vocabulary), np.float32)

    @property
    def cache(self) -> torch.Tensor:
        """The KV cache as torch sees it: the same memory."""
        import torch

        return torch.from_numpy(self._cache).view(self._kv_dtype.as_torch)

    def use(self, kernels: Kernels, *, exact: bool = False) -> None:
        """Switch to the compiled kernels, between two steps; the weights are stored anew, and only so from then on.

        exact: float32 products. Else rows are rounded to eight bits by blocks, for products with quantised weights.
        """
        if not self.compilable:
            raise ValueError("The compiled kernels do not take this model's shapes; leave it to torch.")
        tied = self.head.matrices[0] is self.embedding
        groups = [projection.give_up() for projection in self.projections]
        self._packed = kernels.packed(chain(*groups, [] if tied else [self.embedding]))
        self.embedding = self._packed[-1]
        packed = iter(self._packed)
        *tables, head = [kernels.matrix_table(list(islice(packed, len(group)))) for group in groups]
        of_layers = [np.stack(tables[n :: self._PER_LAYER]) for n in range(self._PER_LAYER)]
        epsilon = np.full(1, self.shape.epsilon, np.float32)
        self._tables = kernels.weights(*of_layers, head, self.norms, self.final_norm, epsilon)
        self.kernels, self._exact = kernels, exact

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        """Write the batch's KV and give float32 logits [sampled rows, vocabulary], valid until the next call."""
        if self.kernels is None:
            from topmast_server.models.eager import forward_eager  # loads torch: a second that compiled kernels save

            return forward_eager(self, batch)
        if self._scratch_rows < batch.rows:
            self._scratch_rows = _roomy(batch.rows)
            self._scratch = self.kernels.new_scratch(self._scratch_rows, self.shape.hidden, self.layout, self.shape.mlp)
        if len(self._logits) < len(batch.sampled_rows):
            self._logits = np.empty((_roomy(len(batch.sampled_rows)), self.shape.vocabulary), np.float32)
        x, logits = self.embedding.take(batch.tokens), self._logits[: len(batch.sampled_rows)]
        paged = Paged(batch.span_table(), batch.tables, self.cosines, self.sines, self._cache)
        threads = self.kernels.threads
        self.kernels.forward(
            x, batch.sampled_rows, self._tables, paged, self.layout, self._exact, threads, self._scratch, logits
        )
        return logits


def _roomy(rows: int) -> int:
    """The next power of two: buffers that grew with every new longest batch would leave holes in the heap for hours."""
    return 1 << (rows - 1).bit_length()
