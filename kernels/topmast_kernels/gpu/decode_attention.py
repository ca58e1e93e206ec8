"""Paged attention of a few new tokens per sequence: the keys are split over programs, a second launch joins the splits.

The split length is fixed, not the number of splits, and splits are joined in index order: a sequence's bits depend on
its own length only, never on the batch or on the width of the page table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
import triton
from torch import Tensor

from topmast_kernels.gpu.attention_tile import least_capability, meta_cache
from topmast_kernels.gpu.compile_table import Case, meta, name
from topmast_kernels.gpu.decode_splits import attend_splits, join_splits
from topmast_kernels.paged_cache import (
    NARROW,
    WIDE,
    Attention,
    PagedCache,
    check_attention,
    describe,
    result_buffers,
)

SPLIT_KEYS = 512
TILE_KEYS = 64
TILE_KEYS_WIDENED = 32  # of 8-bit keys with a head dim of 128: 64 of them take up to 255 registers
SPLITS_AT_ONCE = 16
MOST_ROWS = 128
CACHES = WIDE + NARROW


def decode_workspace_floats(query: Tensor, max_context: int, *, split: int = SPLIT_KEYS) -> int:
    """How many fp32 numbers `decode_attention` needs as workspace for queries of this shape; 0 with a single split."""
    splits = max(1, math.ceil(max_context / split))
    return 0 if splits == 1 else query[..., 0].numel() * splits * (query.shape[-1] + 2)


def decode_attention(
    query: Tensor,
    cache: PagedCache,
    table: Tensor,
    lengths: Tensor,
    *,
    scale: float | None = None,
    causal: bool = True,
    max_context: int | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    workspace: Tensor | None = None,
    split: int = SPLIT_KEYS,
    block: int | None = None,
) -> Attention:
    """Attention of the last one to eight tokens of each sequence over its paged keys.

    query: [sequences, heads, dim] or, for speculative decoding, [sequences, tokens, heads, dim]; any strides, the last
    one 1; bf16 or fp16. table: int32 [sequences, pages], the page of keys 0..page_size-1 first. lengths: int32
    [sequences], keys to attend to, those of the query's tokens included: token t of T sees lengths - (T - 1 - t) keys,
    or all `lengths` with causal=False. Head h reads KV head h // (heads // kv_heads).
    scale: of the scores, 1 / sqrt(dim) unless given. max_context: no length is above it; the table's capacity unless
    given. It bounds the grid, whose programs cost something even where they find nothing to do. A length above it
    gives NaN rows. split, block: for tests; they change the bits.

    Launches: 2, or 1 where max_context <= split. Bytes: keys and values once, plus dim + 2 fp32 per split and query row
    written and read. Nothing is allocated when out, lse and workspace (1-D fp32, `decode_workspace_floats`) are given.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if query.ndim not in (3, 4):
        raise ValueError(f"query {describe(query)} must be [sequences, heads, dim] or [sequences, tokens, heads, dim].")
    check_attention(query, cache, table, lengths, scale)
    result = result_buffers(query, out, lse)
    if query.ndim == 3:
        query, (out, lse) = query[:, None], (result.out[:, None], result.lse[:, None])
    else:
        out, lse = result
    sequences, tokens, heads, dim = query.shape
    group = heads // cache.kv_heads
    if sequences != table.shape[0]:
        raise ValueError(f"The query has {sequences} sequences and the table {table.shape[0]}; pass as many of both.")
    if tokens * group > MOST_ROWS:
        raise ValueError(f"{tokens} tokens x {group} heads per KV head exceed {MOST_ROWS} rows; use prefill_attention.")
    if block is None:
        block = TILE_KEYS_WIDENED if cache.quantised and dim == 128 else TILE_KEYS
    if block < 16 or block & (block - 1) or split < block or split % block:
        raise ValueError(f"split {split} must be a multiple of block {block}, a power of two of at least 16.")
    capacity = table.shape[1] * cache.page_size
    limit = capacity if max_context is None else min(max_context, capacity)
    splits = max(1, math.ceil(limit / split))
    floats = decode_workspace_floats(query, limit, split=split)
    if workspace is None:
        workspace = torch.empty(floats, dtype=torch.float32, device=query.device)
    elif workspace.dtype != torch.float32 or not workspace.is_contiguous() or workspace.numel() < floats:
        raise ValueError(f"workspace {describe(workspace)} must be contiguous float32 of at least {floats} numbers.")
    if sequences == 0 or tokens == 0:
        return result
    parts = query[..., 0].numel() * splits
    alone = splits == 1
    acc, best, total = (None, None, None) if alone else workspace[:floats].split([parts * dim, parts, parts])
    rows = max(16, triton.next_power_of_2(tokens * group))
    sharpness = scale * math.log2(math.e)
    attend_splits[(sequences * cache.kv_heads, splits)](
        query, out, lse, acc, best, total, lengths, table,
        cache.keys, cache.values, cache.key_scales, cache.value_scales,
        sharpness, limit, splits,
        table.stride(0), *query.stride()[:3], *out.stride()[:3], *lse.stride(),
        *cache.strides,
        KV_HEADS=cache.kv_heads, GROUP=group, TOKENS=tokens, ROWS=rows, DIM=dim, PAGE=cache.page_size,
        SPLIT=split, KEYS=block, CAUSAL=causal, ALONE=alone,
        num_warps=4 if rows <= 64 else 8, num_stages=3, enable_fp_fusion=False,
    )  # fmt: skip
    if not alone:
        join_splits[(sequences * tokens, heads)](
            out, lse, acc, best, total, lengths, sharpness, limit, splits,
            *out.stride()[:3], *lse.stride(),
            HEADS=heads, TOKENS=tokens, DIM=dim, SPLIT=split, AT_ONCE=SPLITS_AT_ONCE,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return result


def compile_cases() -> Iterator[Case]:
    """Each cache dtype, head dim and page size once; speculative decoding of eight tokens; a single split."""
    yield _case(torch.bfloat16, 128, 16)
    yield _case(torch.float16, 64, 32)
    yield _case(torch.float8_e4m3fn, 128, 32)
    yield _case(torch.int8, 128, 16)
    yield _case(torch.bfloat16, 128, 32, tokens=8, heads=64, kv_heads=4)
    yield _case(torch.bfloat16, 64, 16, heads=9, kv_heads=3, max_context=SPLIT_KEYS)


def _case(
    dtype: torch.dtype,
    dim: int,
    page: int,
    *,
    tokens: int = 1,
    heads: int = 32,
    kv_heads: int = 8,
    max_context: int | None = None,
    causal: bool = True,
) -> Case:
    cache = meta_cache(dtype, page, kv_heads, dim)
    query = meta((4, tokens, heads, dim), torch.bfloat16 if cache.quantised else dtype)
    call = partial(
        decode_attention,
        query,
        cache,
        meta((4, 256), torch.int32),
        meta((4,), torch.int32),
        max_context=max_context,
        causal=causal,
    )
    title = f"{name(dtype)} dim {dim} page {page} tokens {tokens} heads {heads}/{kv_heads} {max_context} {causal}"
    return Case(title, call, wide=("attend_splits",), least=least_capability(dtype))
