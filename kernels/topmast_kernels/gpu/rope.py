"""Rotates queries and keys by their positions and writes keys and values into their pages: one pass over fused qkv.

A program takes a few heads of one token. Optional norms of each head's query and key (as in Qwen3) come before the
rotation. The cache may be of another type than qkv; int8 and fp8 get a scale per token and head, which is found here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from topmast_kernels.gpu.common import narrow
from topmast_kernels.gpu.compile_table import FP8_CAPABILITY, Case, meta, name
from topmast_kernels.gpu.quantise import quantise, scale_of
from topmast_kernels.paged_cache import PagedCache
from topmast_kernels.twin.rope import check_rope

HEADS_PER_PROGRAM = 8


@triton.jit
def _load_heads(start, head, lane, inside, DIM: tl.constexpr):
    """Both halves, fp32 [heads, half], of the heads that begin at `start`."""
    at = start + head[:, None] * DIM + lane[None, :]
    low = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    return low, tl.load(at + DIM // 2, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _normalise(low, high, weight, lane, eps, DIM: tl.constexpr):
    if weight is not None:
        mean_square = (tl.sum(low * low, axis=1) + tl.sum(high * high, axis=1)) / DIM
        scale = 1.0 / tl.sqrt_rn(mean_square + eps)
        low_factor = tl.load(weight + lane).to(tl.float32)
        high_factor = tl.load(weight + DIM // 2 + lane).to(tl.float32)
        low = low * scale[:, None] * low_factor[None, :]
        high = high * scale[:, None] * high_factor[None, :]
    return low, high


@triton.jit
def _rotate(low, high, table, position, table_stride, positions_limit, lane, DIM: tl.constexpr):
    row = table + position * table_stride
    known = lane < tl.where((position >= 0) & (position < positions_limit), DIM // 2, 0)
    # A position beyond the table would read other memory: its heads become NaN, which nobody overlooks.
    cos = tl.load(row + lane, mask=known, other=float("nan"))[None, :]
    sin = tl.load(row + DIM // 2 + lane, mask=known, other=float("nan"))[None, :]
    return low * cos - high * sin, high * cos + low * sin


@triton.jit
def _write(low, high, start, scales, scales_at, head, head_stride, lane, inside, DIM: tl.constexpr):
    """Heads of one token, from `start` on with `head_stride`; their scales, if any, to the offsets `scales_at`."""
    dtype: tl.constexpr = start.dtype.element_ty
    at = start + head.to(tl.int64)[:, None] * head_stride + lane[None, :]
    if scales is not None:
        peak = tl.maximum(tl.max(tl.abs(low), axis=1), tl.max(tl.abs(high), axis=1))
        broken = tl.max(((low != low) | (high != high)).to(tl.int32), axis=1)
        scale = scale_of(tl.where(broken > 0, float("nan"), peak), dtype)
        tl.store(scales + scales_at[:, None], scale[:, None], mask=inside)
        tl.store(at, quantise(low, scale[:, None], dtype), mask=inside)
        tl.store(at + DIM // 2, quantise(high, scale[:, None], dtype), mask=inside)
    else:
        tl.store(at, narrow(low, dtype), mask=inside)
        tl.store(at + DIM // 2, narrow(high, dtype), mask=inside)


@triton.jit
def _rope_and_cache(
    qkv,
    positions,
    table,
    slots,
    q_weight,
    k_weight,
    out,
    keys,
    values,
    key_scales,
    value_scales,
    qkv_stride,
    table_stride,
    out_row_stride,
    out_head_stride,
    key_page_stride,
    key_slot_stride,
    key_head_stride,
    value_page_stride,
    value_slot_stride,
    value_head_stride,
    key_scale_page_stride,
    key_scale_slot_stride,
    key_scale_head_stride,
    value_scale_page_stride,
    value_scale_slot_stride,
    value_scale_head_stride,
    positions_limit,
    page_size,
    slots_limit,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    GROUP: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    query_parts: tl.constexpr = (HEADS + GROUP - 1) // GROUP
    key_parts: tl.constexpr = (KV_HEADS + GROUP - 1) // GROUP
    lane = tl.arange(0, DIM // 2)
    row = qkv + token * qkv_stride
    position = tl.load(positions + token).to(tl.int64)
    if part < query_parts:
        head = part * GROUP + tl.arange(0, GROUP)
        inside = (head < HEADS)[:, None]
        low, high = _load_heads(row, head, lane, inside, DIM)
        low, high = _normalise(low, high, q_weight, lane, eps, DIM)
        low, high = _rotate(low, high, table, position, table_stride, positions_limit, lane, DIM)
        at = out + token * out_row_stride + head.to(tl.int64)[:, None] * out_head_stride + lane[None, :]
        tl.store(at, narrow(low, out.dtype.element_ty), mask=inside)
        tl.store(at + DIM // 2, narrow(high, out.dtype.element_ty), mask=inside)
    else:
        slot = tl.load(slots + token)
        if (slot >= 0) & (slot < slots_limit):
            page, place = slot // page_size, slot % page_size
            if part < query_parts + key_parts:
                head = (part - query_parts) * GROUP + tl.arange(0, GROUP)
                inside = (head < KV_HEADS)[:, None]
                low, high = _load_heads(row + HEADS * DIM, head, lane, inside, DIM)
                low, high = _normalise(low, high, k_weight, lane, eps, DIM)
                low, high = _rotate(low, high, table, position, table_stride, positions_limit, lane, DIM)
                start = keys + page * key_page_stride + place * key_slot_stride
                at = page * key_scale_page_stride + place * key_scale_slot_stride + head * key_scale_head_stride
                _write(low, high, start, key_scales, at, head, key_head_stride, lane, inside, DIM)
            else:
                head = (part - query_parts - key_parts) * GROUP + tl.arange(0, GROUP)
                inside = (head < KV_HEADS)[:, None]
                low, high = _load_heads(row + (HEADS + KV_HEADS) * DIM, head, lane, inside, DIM)
                start = values + page * value_page_stride + place * value_slot_stride
                at = page * value_scale_page_stride + place * value_scale_slot_stride + head * value_scale_head_stride
                _write(low, high, start, value_scales, at, head, value_head_stride, lane, inside, DIM)


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
    """Rotated queries [tokens, heads, dim]; keys (rotated) and values go to their slots of `cache`.

    qkv: [tokens, (heads + 2 * kv_heads) * dim], any row stride, fp32/fp16/bf16: all queries, then keys, then values.
    positions: int32 [tokens]. table: fp32 [positions, dim], each row dim/2 cosines, then dim/2 sines; lane i turns with
    lane i + dim/2. A position outside the table gives NaN. slots: int64 [tokens], page * page_size + place in the page;
    a slot below 0 (or beyond the cache) writes nothing. q_weight, k_weight: [dim], an RMS norm of each head with `eps`.
    out may be the queries' part of qkv itself. All arithmetic is fp32 and rounded once. One launch; reads qkv once,
    writes as many values as it read. int8 and fp8 caches get scale = largest magnitude of the head / 127 or 448.
    """
    tokens, kv_heads, dim = check_rope(qkv, positions, table, slots, cache, heads, q_weight, k_weight)
    out = qkv.new_empty((tokens, heads, dim)) if out is None else out
    if out.shape != (tokens, heads, dim) or out.stride(2) != 1:
        raise ValueError(f"out is {tuple(out.shape)}; it must be {(tokens, heads, dim)} with adjacent lanes")
    if not tokens:
        return out
    group = HEADS_PER_PROGRAM
    grid = (tokens, triton.cdiv(heads, group) + 2 * triton.cdiv(kv_heads, group))
    _rope_and_cache[grid](
        qkv,
        positions,
        table,
        slots,
        q_weight,
        k_weight,
        out,
        cache.keys,
        cache.values,
        cache.key_scales,
        cache.value_scales,
        qkv.stride(0),
        table.stride(0),
        out.stride(0),
        out.stride(1),
        *cache.strides,
        table.shape[0],
        cache.page_size,
        cache.keys.shape[0] * cache.page_size,
        eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        GROUP=group,
        enable_fp_fusion=False,
        num_warps=group * dim // 512,  # 8 values per thread: 16 bytes of a 16-bit type
    )
    return out


def compile_cases() -> Iterator[Case]:
    def call(dtype: torch.dtype, stored: torch.dtype, dim: int, normed: bool) -> object:
        pages = (1000, 16, 8, dim)
        scales = meta(pages[:3], torch.float32) if stored in (torch.int8, torch.float8_e4m3fn) else None
        cache = PagedCache(meta(pages, stored), meta(pages, stored), scales, scales)
        qkv, table = meta((64, (32 + 16) * dim), dtype), meta((4096, dim), torch.float32)
        weight = meta((dim,), dtype) if normed else None
        positions, slots = meta((64,), torch.int32), meta((64,), torch.int64)
        return rope_and_cache(qkv, positions, table, slots, cache, heads=32, q_weight=weight, k_weight=weight)

    half, brain = torch.float16, torch.bfloat16
    for dtype, stored in ((half, half), (brain, brain), (brain, torch.int8), (brain, torch.float8_e4m3fn)):
        for dim, normed in ((64, False), (128, True)):
            title = f"{name(dtype)} into {name(stored)}, {dim} lanes{', normed' if normed else ''}"
            least = FP8_CAPABILITY if stored == torch.float8_e4m3fn else 80
            yield Case(title, partial(call, dtype, stored, dim, normed), wide=("_rope_and_cache",), least=least)
