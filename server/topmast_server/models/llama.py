"""One decoder for the Llama family: eager torch for many rows, one compiled call for few.

float32 unless bfloat16 was asked for. Both ways write the same paged KV cache and agree up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from topmast_server.models.batch import Batch, Span
from topmast_server.models.kv_memory import lazy_zeros
from topmast_server.models.projection import Projection
from topmast_server.models.rope import rope_tables
from topmast_server.weights.matrix import ModelWeights

if TYPE_CHECKING:
    from topmast_server.models.kernels import Kernels

_KEY, _VALUE = 0, 1


@dataclass(frozen=True, slots=True)
class Crossover:
    """From how many rows on torch takes over; measured at start. 0: at once, for want of kernels."""

    torch_layers: int = 0  # the whole forward pass runs layer by layer in torch
    torch_matmul: int = 0  # ... and its linear layers on dequantised weights


class Llama:
    """The model and its KV cache [layers, 2, blocks, kv_heads, block_size, head_size]."""

    def __init__(
        self, weights: ModelWeights, dtype: torch.dtype, blocks: int, block_size: int, max_model_len: int
    ) -> None:
        self.shape, self.dtype, self.block_size = weights.shape, dtype, block_size
        shape = weights.shape
        sizes = (shape.layers, 2, blocks, shape.kv_heads, block_size, shape.head_size)
        zeros = lazy_zeros(math.prod(sizes) * dtype.itemsize)
        self.cache = torch.from_numpy(zeros).view(dtype).view(sizes)
        self.cosines, self.sines = rope_tables(weights, max_model_len)
        self.embedding = weights.embedding
        self.attention_in = [Projection([w.query, w.key, w.value], dtype) for w in weights.layers]
        self.attention_out = [Projection([w.attention_out], dtype) for w in weights.layers]
        self.mlp_in = [Projection([w.gate, w.up], dtype) for w in weights.layers]
        self.mlp_out = [Projection([w.down], dtype) for w in weights.layers]
        self.head = Projection([weights.head], dtype)
        self.norms = np.stack([np.stack([w.attention_norm, w.mlp_norm]) for w in weights.layers])
        self.final_norm = weights.final_norm
        self.kernels: Kernels | None = None
        self.crossover = Crossover()
        groups = (self.attention_in, self.attention_out, self.mlp_in, self.mlp_out, [self.head])
        self.projections = [projection for group in groups for projection in group]
        self.compilable = all(projection.compilable for projection in self.projections)
        self._scratch = torch.empty(max(p.rows * p.columns for p in self.projections), dtype=torch.float32)
        self._stacks: list[NDArray[np.int64]] = []

    def use(self, kernels: Kernels, crossover: Crossover) -> None:
        """Switch to the compiled kernels, between two steps."""
        groups = (self.attention_in, self.attention_out, self.mlp_in, self.mlp_out)
        self._stacks = [np.stack([kernels.table(projection) for projection in group]) for group in groups]
        for projection in self.projections:
            projection.release_dense()
        self.kernels, self.crossover = kernels, crossover

    def forward(self, batch: Batch) -> torch.Tensor:
        """Write the batch's KV and give float32 logits [sampled rows, vocabulary]."""
        if self.kernels is not None and batch.rows < self.crossover.torch_layers:
            return self._forward_compiled(batch, self.kernels)
        with torch.inference_mode():
            return self._forward_torch(batch)

    def _forward_compiled(self, batch: Batch, kernels: Kernels) -> torch.Tensor:
        x = self.embedding.take(batch.tokens)
        shape = self.shape
        kernels.forward_rows(
            *(x, batch.positions, batch.tables_by_row(), self.cache.numpy()),
            *self._stacks,
            *(self.norms, self.cosines, self.sines, shape.epsilon, shape.rope_interleaved, shape.heads, shape.mlp),
        )
        sampled = x[batch.sampled_rows]
        normed = np.empty_like(sampled)
        kernels.rms_norm(sampled, self.final_norm, shape.epsilon, normed)
        logits = np.empty((len(sampled), shape.vocabulary), np.float32)
        if len(sampled):
            kernels.linear(normed, kernels.table(self.head), logits)
        return torch.from_numpy(logits)

    def _forward_torch(self, batch: Batch) -> torch.Tensor:
        shape = self.shape
        x = torch.from_numpy(self.embedding.take(batch.tokens)).to(self.dtype)
        positions = torch.from_numpy(batch.positions)
        cosines = torch.from_numpy(self.cosines)[positions].to(self.dtype)[:, None, :]
        sines = torch.from_numpy(self.sines)[positions].to(self.dtype)[:, None, :]
        tables = torch.from_numpy(batch.tables.astype(np.int64))
        of_row = torch.from_numpy(batch.tables_by_row().astype(np.int64))
        blocks = of_row.gather(1, (positions // self.block_size)[:, None])[:, 0]
        slots = positions % self.block_size
        for layer in range(shape.layers):
            normed = self._norm(x, self.norms[layer, 0])
            qkv = self._project(self.attention_in[layer], normed).view(batch.rows, -1, shape.head_size)
            rotated = self._rotate(qkv[:, : shape.heads + shape.kv_heads], cosines, sines)
            query, key = torch.split(rotated, [shape.heads, shape.kv_heads], dim=1)
            cache = self.cache[layer]
            cache[_KEY, blocks, :, slots] = key
            cache[_VALUE, blocks, :, slots] = qkv[:, shape.heads + shape.kv_heads :]
            attended = torch.empty_like(query)
            self._attend(batch, query, cache, tables, attended)
            x = x + self._project(self.attention_out[layer], attended.view(batch.rows, -1))
            gate, up = self._project(self.mlp_in[layer], self._norm(x, self.norms[layer, 1])).chunk(2, dim=-1)
            x = x + self._project(self.mlp_out[layer], functional.silu(gate) * up)
        sampled = x[torch.from_numpy(batch.sampled_rows)]
        return self._project(self.head, self._norm(sampled, self.final_norm)).float()

    def _norm(self, x: torch.Tensor, weight: NDArray[np.float32]) -> torch.Tensor:
        """RMS norm with float32 statistics, rounded once before the weight, as transformers does."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.shape.epsilon)
        return wide.to(self.dtype) * torch.from_numpy(weight).to(self.dtype)

    def _rotate(self, x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
        if self.shape.rope_interleaved:
            first, second = x[..., 0::2], x[..., 1::2]
            turned = torch.stack((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
            return turned.flatten(-2)
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)

    def _project(self, projection: Projection, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        if self.kernels is not None and projection.compilable and 0 < rows < self.crossover.torch_matmul:
            out = torch.empty((rows, projection.rows), dtype=torch.float32)
            self.kernels.linear(x.contiguous().numpy(), self.kernels.table(projection), out.numpy())
            return out
        return x @ projection.dense(self.kernels, self._scratch).T

    def _attend(
        self, batch: Batch, query: torch.Tensor, cache: torch.Tensor, tables: torch.Tensor, out: torch.Tensor
    ) -> None:
        """Fill out [M, heads, D]: prefill spans one by one, single rows together where kernels are there."""
        singles = [span for span in batch.spans if span.count == 1] if self.kernels is not None else []
        if self.kernels is not None and singles:
            rows = np.array([span.row for span in singles])
            answer = np.empty((len(rows), *query.shape[1:]), np.float32)
            lines = batch.tables[[span.table for span in singles]]
            picked = np.ascontiguousarray(query.numpy()[rows])
            self.kernels.paged_attention(picked, cache.numpy(), lines, batch.positions[rows], answer)
            out[torch.from_numpy(rows)] = torch.from_numpy(answer)
        for span in batch.spans:
            if span.count > 1 or self.kernels is None:
                out[span.row : span.row + span.count] = self._attend_span(span, query, cache, tables)

    def _attend_span(self, span: Span, query: torch.Tensor, cache: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        """Causal attention of one span over its whole sequence so far: [count, heads, D]."""
        length = span.start + span.count
        blocks = tables[span.table, : -(-length // self.block_size)]
        key, value = (cache[which, blocks].transpose(0, 1).flatten(1, 2)[:, :length] for which in (_KEY, _VALUE))
        queries = query[span.row : span.row + span.count].transpose(0, 1)
        mask = None
        if span.start and span.count > 1:
            mask = torch.arange(length)[None, :] <= torch.arange(span.start, length)[:, None]
        attended = functional.scaled_dot_product_attention(
            queries[None],
            key[None],
            value[None],
            attn_mask=mask,
            is_causal=mask is None and span.count > 1,
            enable_gqa=self.shape.heads != self.shape.kv_heads,
        )
        return attended[0].transpose(0, 1)
