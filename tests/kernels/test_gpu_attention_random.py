"""Attention on arbitrary ragged batches, page sizes and blocks; and together with the kernel that fills the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_attention import Pages, attention, paged

from topmast_kernels.gpu.decode_attention import decode_attention
from topmast_kernels.gpu.prefill_attention import prefill_attention
from topmast_kernels.gpu.rope import rope_and_cache
from topmast_kernels.paged_cache import Attention, PagedCache

# NumPy warns of -inf - -inf, which the kernels guard after the fact.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DTYPES = [torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn]
EXAMPLES, MANY_EXAMPLES = 25, 2000  # in every run, and in `make test-long`
any_decode = given(
    lengths=st.lists(st.integers(0, 100), min_size=1, max_size=3),
    group=st.sampled_from([1, 2, 3, 5]),
    tokens=st.integers(1, 5),
    page_size=st.sampled_from([1, 8, 16, 24, 32]),
    blocks=st.sampled_from([(16, 16), (32, 16), (48, 16), (64, 64), (128, 32)]),
    dtype=st.sampled_from(DTYPES),
    causal=st.booleans(),
)
any_prefill = given(
    chunks=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=4),
    group=st.sampled_from([1, 2, 3, 5]),
    page_size=st.sampled_from([1, 8, 16, 24, 32]),
    blocks=st.sampled_from([(16, 16), (32, 16), (16, 64), (64, 32)]),
    dtype=st.sampled_from(DTYPES),
    causal=st.booleans(),
)


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, derandomize=True, database=None)


def assert_token(got: Attention, query: torch.Tensor, visible: int, pages: Pages, sequence: int) -> None:
    """One token of a sequence, which sees its first `visible` keys.

    Each weight of a value is rounded once, to bf16 (by at most 2**-8 of it) or fp16 (2**-11), so
    the error of a sum is at most that part of the sum of what is added, without its signs. The rest is fp32's.
    """
    keys, values = pages.keys[sequence], pages.values[sequence]
    out, lse = attention(query, visible, keys, values, 0.125)
    added, _ = attention(query, visible, keys, np.abs(values), 0.125)
    rounding = 2.0**-11 if pages.cache.values.dtype == torch.float16 else 2.0**-8
    excess = np.abs(got.out.double().numpy() - out) - 1.01 * rounding * added
    assert np.all(excess <= 1e-5), f"{excess.max():.1e} more than its rounding explains"
    torch.testing.assert_close(got.lse.double(), torch.from_numpy(lse), atol=1e-5, rtol=1e-6)


def assert_decode(
    lengths: list[int],
    group: int,
    tokens: int,
    page_size: int,
    blocks: tuple[int, int],
    dtype: torch.dtype,
    causal: bool,
) -> None:
    pages = paged(lengths, kv_heads=1, page_size=page_size, dtype=dtype)
    query = torch.randn(len(lengths), tokens, group, 64, generator=torch.Generator().manual_seed(7))
    query = query.to(torch.float16 if dtype != torch.bfloat16 else dtype)
    out = torch.full(query.shape, torch.nan)
    split, block = blocks
    _, lse = decode_attention(
        query, pages.cache, pages.table, pages.lengths, causal=causal, out=out, split=split, block=block
    )
    for sequence, length in enumerate(lengths):
        for token in range(tokens):
            visible = length - (tokens - 1 - token) if causal else length
            at = sequence, token
            assert_token(Attention(out[at], lse[at]), query[at], visible, pages, sequence)


def assert_prefill(
    chunks: list[tuple[int, int]],
    group: int,
    page_size: int,
    blocks: tuple[int, int],
    dtype: torch.dtype,
    causal: bool,
) -> None:
    """Chunks of (new tokens, keys), either of which may be the larger one."""
    counts, lengths = [count for count, _ in chunks], [length for _, length in chunks]
    pages = paged(lengths, kv_heads=1, page_size=page_size, dtype=dtype)
    query = torch.randn(sum(counts), group, 64, generator=torch.Generator().manual_seed(7))
    query = query.to(torch.float16 if dtype != torch.bfloat16 else dtype)
    out = torch.full(query.shape, torch.nan)
    starts = torch.tensor([0, *counts]).cumsum(0).int()
    block_rows, block = blocks
    _, lse = prefill_attention(
        query,
        pages.cache,
        pages.table,
        starts,
        pages.lengths,
        causal=causal,
        out=out,
        block_rows=block_rows,
        block=block,
    )
    for sequence, (count, length) in enumerate(chunks):
        for token in range(count):
            row = int(starts[sequence]) + token
            visible = length - (count - 1 - token) if causal else length
            assert_token(Attention(out[row], lse[row]), query[row], visible, pages, sequence)


@examples(EXAMPLES)
@any_decode
def test_decode(**batch: Any) -> None:
    assert_decode(**batch)


@examples(EXAMPLES)
@any_prefill
def test_prefill(**batch: Any) -> None:
    assert_prefill(**batch)


@pytest.mark.long
@pytest.mark.parametrize(
    ("any_batch", "check"), [(any_decode, assert_decode), (any_prefill, assert_prefill)], ids=["decode", "prefill"]
)
def test_thousands_of_batches(any_batch: Any, check: Callable[..., None], record: dict[str, Any]) -> None:
    record["batches"] = 0

    @examples(MANY_EXAMPLES)
    @any_batch
    def each(**batch: Any) -> None:
        check(**batch)
        record["batches"] += 1

    each()
    assert record["batches"] >= MANY_EXAMPLES


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompt_in_chunks_and_then_decoded_is_the_prompt_at_once(dtype: torch.dtype) -> None:
    """What rope_and_cache writes is what attention reads, scales included. To the bit as far as prefill goes."""
    heads, kv_heads, length = 4, 2, 41
    wide = torch.float16 if dtype != torch.bfloat16 else dtype
    qkv = torch.randn(length, (heads + 2 * kv_heads) * 64, generator=torch.Generator().manual_seed(3)).to(wide)
    angles = torch.randn(length, 32, generator=torch.Generator().manual_seed(4))
    rotations = torch.cat([angles.cos(), angles.sin()], 1)
    table = torch.tensor([[4, 0, 3]], dtype=torch.int32)
    positions = torch.arange(length, dtype=torch.int32)
    slots = table[0].long()[positions // 16] * 16 + positions % 16

    def run(borders: list[int]) -> torch.Tensor:
        entries = torch.full((2, 5, 16, kv_heads, 64), 127.0 if dtype == torch.int8 else torch.nan).to(dtype)
        quantised = dtype in (torch.int8, torch.float8_e4m3fn)
        scales = torch.full((2, 5, 16, kv_heads), torch.nan) if quantised else (None, None)
        cache = PagedCache(entries[0], entries[1], scales[0], scales[1])
        outs = []
        for first, last in zip([0, *borders], [*borders, length], strict=True):
            at = slice(first, last)
            query = rope_and_cache(qkv[at], positions[at], rotations, slots[at], cache, heads=heads)
            held = torch.tensor([last], dtype=torch.int32)
            if last - first == 1:
                outs.append(decode_attention(query, cache, table, held, split=32, block=32).out)
            else:
                starts = torch.tensor([0, last - first], dtype=torch.int32)
                outs.append(prefill_attention(query, cache, table, starts, held, block_rows=32, block=32).out)
        return torch.cat(outs)

    whole, parts = run([]), run([9, 39, 40])
    assert whole.isfinite().all()
    assert torch.equal(parts[:39], whole[:39])
    torch.testing.assert_close(parts[39:], whole[39:], atol=8e-3, rtol=8e-3)
