"""The paged KV cache as attention reads it, and what attention gives back. Plain torch: GPU kernels and twins share it.

Checks look at shapes, strides and dtypes, never at numbers on the device, so they can run while a graph is captured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

HEAD_DIMS = (64, 128)
WIDE = (torch.bfloat16, torch.float16)
NARROW = (torch.float8_e4m3fn, torch.int8)


class Attention(NamedTuple):
    """`out` [..., heads, dim]; `lse` [..., heads] fp32, the natural log of the sum of exp(scaled scores).

    A row that sees no key has out = 0 and lse = -inf, so that merging it changes nothing.
    """

    out: Tensor
    lse: Tensor


@dataclass(frozen=True)
class PagedCache:
    """`keys`, `values` [pages, page_size, kv_heads, dim], any strides but the last one, which is 1.

    bf16 or fp16, like the query; or int8 or float8_e4m3fn with fp32 `key_scales`, `value_scales` [pages, page_size,
    kv_heads]: a number is what is stored times the scale of its token and head. float8_e4m3fn needs sm_89 or newer.
    """

    keys: Tensor
    values: Tensor
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None

    def __post_init__(self) -> None:
        keys, values = self.keys, self.values
        if keys.ndim != 4 or keys.shape != values.shape or keys.dtype != values.dtype:
            raise ValueError(
                f"keys {describe(keys)} and values {describe(values)} must be alike: [pages, page_size, kv_heads, dim]."
            )
        if keys.shape[3] not in HEAD_DIMS:
            raise ValueError(f"The head dim is {keys.shape[3]}; use one of {HEAD_DIMS}.")
        if keys.stride(3) != 1 or values.stride(3) != 1:
            raise ValueError("Lay keys and values out with the head dim last in memory (stride 1).")
        if keys.dtype not in WIDE + NARROW:
            raise ValueError(f"A cache of {keys.dtype} is not supported; use one of {WIDE + NARROW}.")
        if max(keys.stride(1), values.stride(1)) * keys.shape[1] > 2**31 - 1:
            raise ValueError(
                "The slots of a page lie over 2**31 - 1 numbers apart; let pages be the outermost dimension."
            )
        for name, scales in (("key_scales", self.key_scales), ("value_scales", self.value_scales)):
            if (scales is not None) != self.quantised:
                raise ValueError(f"A cache of {keys.dtype} goes {'with' if self.quantised else 'without'} {name}.")
            if scales is not None and (scales.shape != keys.shape[:3] or scales.dtype != torch.float32):
                raise ValueError(f"{name} {describe(scales)} must be float32 {list(keys.shape[:3])}.")

    @property
    def quantised(self) -> bool:
        return self.keys.dtype in NARROW

    @property
    def page_size(self) -> int:
        return self.keys.shape[1]

    @property
    def kv_heads(self) -> int:
        return self.keys.shape[2]

    @property
    def dim(self) -> int:
        return self.keys.shape[3]

    @property
    def strides(self) -> tuple[int, ...]:
        """Page, slot and head strides of keys, values, key scales and value scales; 0 for scales that there are not."""
        tensors = (self.keys, self.values, self.key_scales, self.value_scales)
        return tuple(stride for tensor in tensors for stride in ((0,) * 3 if tensor is None else tensor.stride()[:3]))


def check_attention(query: Tensor, cache: PagedCache, table: Tensor, lengths: Tensor, scale: float) -> None:
    """Refuses what decode and prefill attention could not read: query [..., heads, dim], table [sequences, pages]."""
    heads, dim = query.shape[-2:]
    if dim != cache.dim or heads % cache.kv_heads:
        raise ValueError(
            f"query {describe(query)} must have heads of {cache.dim}, a multiple of the cache's {cache.kv_heads} heads."
        )
    if query.stride(-1) != 1:
        raise ValueError("Lay the query out with the head dim last in memory (stride 1).")
    if query.dtype not in WIDE or (not cache.quantised and query.dtype != cache.keys.dtype):
        raise ValueError(f"A query of {query.dtype} does not go with a cache of {cache.keys.dtype}; use one dtype.")
    if table.ndim != 2 or table.dtype != torch.int32 or table.stride(1) != 1:
        raise ValueError(f"table {describe(table)} must be int32 [sequences, pages] with contiguous rows.")
    if lengths.shape != table.shape[:1] or lengths.dtype != torch.int32 or not lengths.is_contiguous():
        raise ValueError(f"lengths {describe(lengths)} must be contiguous int32 [{table.shape[0]}], one per table row.")
    if not scale > 0.0:
        raise ValueError(f"The softmax scale is {scale}; it must be positive, as 1 / sqrt(dim) is.")


def check_starts(starts: Tensor, table: Tensor) -> None:
    """Refuses `starts` that are not one more than `table` has sequences."""
    if starts.shape != (table.shape[0] + 1,) or starts.dtype != torch.int32 or not starts.is_contiguous():
        raise ValueError(f"starts {describe(starts)} must be contiguous int32 [{table.shape[0] + 1}], sequences + 1.")


def check_merge(first: Attention, second: Attention) -> None:
    """Refuses partial results that do not belong to the same rows [rows, heads, dim]."""
    for name, part in (("first", first), ("second", second)):
        if part.out.ndim != 3 or part.out.shape != first.out.shape or part.out.dtype not in (*WIDE, torch.float32):
            raise ValueError(f"{name}.out {describe(part.out)} must be bf16, fp16 or fp32 [rows, heads, dim], as both.")
        if part.out.stride(2) != 1 or part.out.shape[2] not in HEAD_DIMS:
            raise ValueError(f"{name}.out {describe(part.out)} must have a last dim of {HEAD_DIMS} with stride 1.")
        if part.lse.shape != part.out.shape[:2] or part.lse.dtype != torch.float32:
            raise ValueError(f"{name}.lse {describe(part.lse)} must be float32 {list(part.out.shape[:2])}.")


def result_buffers(query: Tensor, out: Tensor | None, lse: Tensor | None) -> Attention:
    """`out` like `query` and `lse` [..., heads] fp32; what is given is checked and used, what is missing is allocated.

    `out` may be fp32, so that a later merge rounds once.
    """
    if out is None:
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    elif out.shape != query.shape or out.stride(-1) != 1 or out.dtype not in (*WIDE, torch.float32):
        raise ValueError(f"out {describe(out)} must be bf16, fp16 or fp32 {list(query.shape)}, its last stride 1.")
    if lse is None:
        lse = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
    elif lse.shape != query.shape[:-1] or lse.dtype != torch.float32:
        raise ValueError(f"lse {describe(lse)} must be float32 {list(query.shape[:-1])}.")
    return Attention(out, lse)


def describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
