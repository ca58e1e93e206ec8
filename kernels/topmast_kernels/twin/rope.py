"""Rotary positions, optional norms of heads and writes to the paged cache in plain torch; and what both kinds check."""

from __future__ import annotations

import torch
from torch import Tensor

from topmast_kernels.paged_cache import PagedCache

LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


def check_rope(
    qkv: Tensor,
    positions: Tensor,
    table: Tensor,
    slots: Tensor,
    cache: PagedCache,
    heads: int,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
) -> tuple[int, int, int]:
    """(tokens, kv_heads, dim), or ValueError."""
    tokens, width = qkv.shape
    _, _, kv_heads, dim = cache.keys.shape
    if width != (heads + 2 * kv_heads) * dim or qkv.stride(1) != 1:
        raise ValueError(
            f"qkv has {width} columns, but {heads} query and 2 * {kv_heads} cache heads of {dim} lanes need "
            f"{(heads + 2 * kv_heads) * dim} adjacent ones"
        )
    if table.ndim != 2 or table.shape[1] != dim or table.dtype != torch.float32 or table.stride(1) != 1:
        raise ValueError(f"table is {tuple(table.shape)} {table.dtype}; it must be fp32 [positions, {dim}]")
    for label, tensor, dtype in (("positions", positions, torch.int32), ("slots", slots, torch.int64)):
        if tensor.shape != (tokens,) or tensor.dtype != dtype or not tensor.is_contiguous():
            raise ValueError(
                f"{label} is {tuple(tensor.shape)} {tensor.dtype}; it must be contiguous {dtype} [{tokens}]"
            )
    for weight in (q_weight, k_weight):
        if weight is not None and (weight.shape != (dim,) or weight.stride(0) != 1):
            raise ValueError(f"the norm's weight is {tuple(weight.shape)}; it must be a dense [{dim}]")
    return tokens, kv_heads, dim


def rope_and_cache(
    qkv: Tensor,
    positions: Tensor,
    table: Tensor,
    slots: Tensor,
    cache: PagedCache,
    *,
    heads: int,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    eps: float = 1e-6,
    out: Tensor | None = None,
) -> Tensor:
    """As `topmast_kernels.gpu.rope.rope_and_cache`."""
    tokens, kv_heads, dim = check_rope(qkv, positions, table, slots, cache, heads, q_weight, k_weight)
    wide = qkv.float().view(tokens, heads + 2 * kv_heads, dim)
    parts = wide[:, :heads], wide[:, heads : heads + kv_heads], wide[:, heads + kv_heads :]
    known = (positions >= 0) & (positions < len(table))
    angles = table[positions.clamp(0, len(table) - 1).long()].masked_fill(~known[:, None], float("nan"))[:, None]
    cos, sin = angles.chunk(2, dim=2)
    query = _rotate(_normalise(parts[0], q_weight, eps), cos, sin).to(qkv.dtype)
    key = _rotate(_normalise(parts[1], k_weight, eps), cos, sin)
    size = cache.keys.shape[1]
    kept = ((slots >= 0) & (slots < cache.keys.shape[0] * size)).nonzero().squeeze(1)
    pages, places = slots[kept] // size, slots[kept] % size
    for new, pool, scales in ((key, cache.keys, cache.key_scales), (parts[2], cache.values, cache.value_scales)):
        stored = new[kept]
        if scales is not None:
            stored, scale = quantise(stored, pool.dtype)
            scales[pages, places] = scale
        pool[pages, places] = stored.to(pool.dtype)
    return query if out is None else out.copy_(query)


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(numbers of `dtype`, fp32 scale per row of the last dimension); a row with a NaN has the scale NaN and zeros."""
    peak = x.abs().amax(dim=-1)
    scale = torch.where(peak < 2.0**-100, 0.0, peak / LARGEST[dtype])
    ratio = torch.where((scale > 0)[..., None], x / scale[..., None], 0.0).clamp(-LARGEST[dtype], LARGEST[dtype])
    return (ratio.round() if dtype == torch.int8 else ratio).to(dtype), scale


def _normalise(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    if weight is None:
        return x
    return x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * weight.float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)
