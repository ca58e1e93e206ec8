"""Causal attention of chunks of prompts over paged keys, all sequences of a step in one launch.

Queries lie one sequence after another, without padding. Key tiles start at absolute positions, so a token's bits are
the same whether its prompt comes in one chunk or in several, and whatever else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from topmast_kernels.gpu.attention_tile import attend, capability, finish, least_capability, meta_cache
from topmast_kernels.gpu.common import narrow
from topmast_kernels.gpu.compile_table import Case, meta, name
from topmast_kernels.paged_cache import (
    NARROW,
    WIDE,
    Attention,
    PagedCache,
    check_attention,
    check_starts,
    describe,
    result_buffers,
)

TILE_ROWS = 128
TILE_ROWS_CROWDED = 64  # where 128 rows would spill registers to memory
TILE_KEYS = 64
CACHES = WIDE + NARROW


# Numbers that change from step to step must not be compiled in: a request would wait for the compiler.
@triton.jit(do_not_specialize=["limit", "sequences", "table_sequence"])
def attend_chunks(
    query,
    out,
    lse,
    starts,
    lengths,
    table,
    keys,
    values,
    key_scales,
    value_scales,
    sharpness,
    limit,
    sequences,
    table_sequence,
    query_token,
    query_head,
    out_token,
    out_head,
    lse_token,
    lse_head,
    key_page,
    key_slot,
    key_head,
    value_page,
    value_slot,
    value_head,
    key_scale_page,
    key_scale_slot,
    key_scale_head,
    value_scale_page,
    value_scale_slot,
    value_scale_head,
    GROUP: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    KEYS: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """Program (query block, KV head): TOKENS tokens of one sequence, with all query heads of the KV head.

    Sequence s has the blocks from starts[s] // TOKENS + s on: at least as many as it needs, found without a sync.
    """
    # The last blocks of a prompt see the most keys and start first, so that none of them runs on alone at the end.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1).to(tl.int64)
    sequence = tl.full([], 0, tl.int32)
    after = sequences
    while after - sequence > 1:
        middle = (sequence + after) // 2
        here = tl.load(starts + middle) // TOKENS + middle <= block
        sequence = tl.where(here, middle, sequence)
        after = tl.where(here, after, middle)
    start = tl.load(starts + sequence)
    count = tl.load(starts + sequence + 1) - start
    token_first = (block - (start // TOKENS + sequence)) * TOKENS
    if token_first >= count:
        return
    length = tl.load(lengths + sequence)
    fits = length <= limit
    length = tl.where(fits, length, 0)

    row = tl.arange(0, ROWS)
    token = token_first + row // GROUP
    head = kv_head * GROUP + row % GROUP
    real = (row // GROUP < TOKENS) & (token < count)
    dims = tl.arange(0, DIM)
    query_at = query + (start + token).to(tl.int64) * query_token + head * query_head
    q = tl.load(query_at[:, None] + dims[None, :], mask=real[:, None], other=0.0)

    if CAUSAL:
        visible = length - count + 1 + token
        seen_by_all = tl.maximum(length - count + 1 + token_first, 0)
        end = tl.maximum(tl.minimum(length - count + token_first + TOKENS, length), 0)
    else:
        visible = length + tl.zeros([ROWS], tl.int32)
        seen_by_all = length
        end = length
    full_end = tl.minimum(seen_by_all, end) // KEYS * KEYS
    table += sequence.to(tl.int64) * table_sequence
    keys += kv_head * key_head
    values += kv_head * value_head
    if key_scales is not None:
        key_scales += kv_head * key_scale_head
        value_scales += kv_head * value_scale_head
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, DIM], tl.float32)
    best, total, acc = attend(
        q, best, total, acc, 0, full_end, visible, table,
        keys, key_page, key_slot, values, value_page, value_slot,
        key_scales, key_scale_page, key_scale_slot, value_scales, value_scale_page, value_scale_slot,
        sharpness, PAGE, KEYS, False,
    )  # fmt: skip
    best, total, acc = attend(
        q, best, total, acc, full_end, end, visible, table,
        keys, key_page, key_slot, values, value_page, value_slot,
        key_scales, key_scale_page, key_scale_slot, value_scales, value_scale_page, value_scale_slot,
        sharpness, PAGE, KEYS, True,
    )  # fmt: skip
    answer, log_sum = finish(best, total, acc, sharpness)
    answer = tl.where(fits, answer, float("nan"))
    log_sum = tl.where(fits, log_sum, float("nan"))
    out_at = out + (start + token).to(tl.int64) * out_token + head * out_head
    tl.store(out_at[:, None] + dims[None, :], narrow(answer, out.dtype.element_ty), mask=real[:, None])
    tl.store(lse + (start + token).to(tl.int64) * lse_token + head * lse_head, log_sum, mask=real)


def prefill_attention(
    query: Tensor,
    cache: PagedCache,
    table: Tensor,
    starts: Tensor,
    lengths: Tensor,
    *,
    scale: float | None = None,
    causal: bool = True,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    block_rows: int | None = None,
    block: int = TILE_KEYS,
) -> Attention:
    """Attention of each sequence's newest tokens over its paged keys, earlier chunks and cached prefixes included.

    query: [tokens, heads, dim], sequences one after another; any strides, the last one 1; bf16 or fp16. starts: int32
    [sequences + 1], ascending: sequence s has the tokens starts[s]..starts[s + 1]-1, none at all allowed; tokens from
    starts[-1] on are padding, and their results are not written. table: int32 [sequences, pages]. lengths: int32
    [sequences], keys to attend to, those of the query's tokens included: the sequence's last token sees all of them,
    each earlier one a key less, or all with causal=False. A length above the table's capacity gives NaN rows.
    scale: of the scores, 1 / sqrt(dim) unless given. block_rows, block: for tests; `block` changes the bits.

    Launches: 1. Bytes: queries and results once, keys and values once per query block. Nothing is allocated when out
    and lse are given.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if query.ndim != 3:
        raise ValueError(f"query {describe(query)} must be [tokens, heads, dim].")
    check_attention(query, cache, table, lengths, scale)
    check_starts(starts, table)
    out, lse = result = result_buffers(query, out, lse)
    tokens, heads, dim = query.shape
    group = heads // cache.kv_heads
    if block_rows is None:
        crowded = dim == 128 and (cache.quantised or capability() < 90)
        block_rows = max(TILE_ROWS_CROWDED if crowded else TILE_ROWS, triton.next_power_of_2(group))
    if block < 16 or block & (block - 1) or block_rows < max(16, group) or block_rows & (block_rows - 1):
        raise ValueError(
            f"block {block} and block_rows {block_rows} must be powers of two of at least 16, "
            f"and block_rows at least the {group} query heads of a KV head."
        )
    sequences = table.shape[0]
    if sequences == 0 or tokens == 0:
        return result
    tokens_at_once = block_rows // group
    attend_chunks[(tokens // tokens_at_once + sequences, cache.kv_heads)](
        query, out, lse, starts, lengths, table,
        cache.keys, cache.values, cache.key_scales, cache.value_scales,
        scale * math.log2(math.e), table.shape[1] * cache.page_size, sequences,
        table.stride(0), *query.stride()[:2], *out.stride()[:2], *lse.stride(),
        *cache.strides,
        GROUP=group, TOKENS=tokens_at_once, ROWS=block_rows, DIM=dim, PAGE=cache.page_size, KEYS=block, CAUSAL=causal,
        num_warps=8, num_stages=2, enable_fp_fusion=False,
    )  # fmt: skip
    return result


def compile_cases() -> Iterator[Case]:
    """Each cache dtype, head dim and page size once; a single sequence that sees all keys, in odd groups of heads."""
    yield _case(torch.bfloat16, 128, 16)
    yield _case(torch.float16, 64, 32)
    yield _case(torch.float8_e4m3fn, 128, 32)
    yield _case(torch.int8, 128, 16)
    yield _case(torch.bfloat16, 64, 16, heads=9, kv_heads=3, sequences=1, causal=False)


def _case(
    dtype: torch.dtype,
    dim: int,
    page: int,
    *,
    heads: int = 32,
    kv_heads: int = 8,
    sequences: int = 4,
    causal: bool = True,
) -> Case:
    cache = meta_cache(dtype, page, kv_heads, dim)
    query = meta((512, heads, dim), torch.bfloat16 if cache.quantised else dtype)
    call = partial(
        prefill_attention,
        query,
        cache,
        meta((sequences, 256), torch.int32),
        meta((sequences + 1,), torch.int32),
        meta((sequences,), torch.int32),
        causal=causal,
    )
    title = f"{name(dtype)} dim {dim} page {page} heads {heads}/{kv_heads} sequences {sequences} {causal}"
    return Case(title, call, wide=("attend_chunks",), least=least_capability(dtype))
