"""The forward pass layer by layer in torch: the stand-in until the kernels are compiled, and for what they do not take.

It reads and writes the same KV cache as kernels/topmast_kernels/cpu/decoder.py, which is its twin, up to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from topmast_server.models.batch import Batch, Span

if TYPE_CHECKING:
    from topmast_server.models.llama import Llama

_KEY, _VALUE = 0, 1


@torch.inference_mode()
def forward_eager(model: Llama, batch: Batch) -> NDArray[np.float32]:
    """Write the batch's KV and give float32 logits [sampled rows, vocabulary]."""
    shape, size = model.shape, model.block_size
    pieces = model.cache.view(len(model.cache), shape.layers, 2, shape.kv_heads, -1)
    x = torch.from_numpy(model.embedding.take(batch.tokens)).to(model.dtype.as_torch)
    positions = torch.from_numpy(batch.positions)
    cosines, sines = (
        torch.from_numpy(angles)[positions].to(model.dtype.as_torch)[:, None, :]
        for angles in (model.cosines, model.sines)
    )
    of_row = torch.from_numpy(batch.tables_by_row().astype(np.int64))
    blocks, slots = of_row.gather(1, (positions // size)[:, None])[:, 0], positions % size
    for layer in range(shape.layers):
        normed = _norm(model, x, model.norms[layer, 0])
        qkv = (normed @ model.attention_in[layer].dense().T).view(batch.rows, -1, shape.head_size)
        rotated = _rotate(qkv[:, : shape.heads + shape.kv_heads], cosines, sines, interleaved=shape.rope_interleaved)
        query, key = torch.split(rotated, [shape.heads, shape.kv_heads], dim=1)
        keys = pieces[:, layer, _KEY].view(*pieces.shape[:1], shape.kv_heads, shape.head_size, size)
        values = pieces[:, layer, _VALUE].view(*pieces.shape[:1], shape.kv_heads, size, shape.head_size)
        keys[blocks, :, :, slots] = key.to(keys.dtype)
        values[blocks, :, slots] = qkv[:, shape.heads + shape.kv_heads :].to(values.dtype)
        spans = [_attend(batch, span, query, keys, values) for span in batch.spans]
        x = x + torch.cat(spans).view(batch.rows, -1) @ model.attention_out[layer].dense().T
        gate, up = (_norm(model, x, model.norms[layer, 1]) @ model.mlp_in[layer].dense().T).chunk(2, dim=-1)
        x = x + (functional.silu(gate) * up) @ model.mlp_out[layer].dense().T
    sampled = _norm(model, x[torch.from_numpy(batch.sampled_rows)], model.final_norm)
    logits: NDArray[np.float32] = (sampled @ model.head.dense().T).float().numpy()
    return logits


def _norm(model: Llama, x: torch.Tensor, weight: NDArray[np.float32]) -> torch.Tensor:
    """RMS norm with float32 statistics, rounded once before the weight, as transformers does."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + model.shape.epsilon)
    return wide.to(model.dtype.as_torch) * torch.from_numpy(weight).to(model.dtype.as_torch)


def _rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, *, interleaved: bool) -> torch.Tensor:
    if interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
        turned = torch.stack((first * cosines - second * sines, second * cosines + first * sines), dim=-1)
        return turned.flatten(-2)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


def _attend(batch: Batch, span: Span, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Causal attention of one span over its whole sequence so far: [count, heads, D]."""
    length, size = span.start + span.count, keys.shape[-1]
    blocks = torch.from_numpy(batch.tables[span.table, : -(-length // size)].astype(np.int64))
    key = keys[blocks].permute(1, 0, 3, 2).flatten(1, 2)[:, :length].to(query.dtype)
    value = values[blocks].transpose(0, 1).flatten(1, 2)[:, :length].to(query.dtype)
    mask = None
    if span.start and span.count > 1:
        mask = torch.arange(length)[None, :] <= torch.arange(span.start, length)[:, None]
    attended = functional.scaled_dot_product_attention(
        query[span.row : span.row + span.count].transpose(0, 1)[None],
        key[None],
        value[None],
        attn_mask=mask,
        is_causal=mask is None and span.count > 1,
        enable_gqa=query.shape[1] != key.shape[0],
    )
    return attended[0].transpose(0, 1)
