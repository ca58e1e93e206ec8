"""Prefill attention against float64; a prompt has the same bits in one chunk and in several, and in every batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from oracle_attention import Pages, assert_same, attention, paged
from torch import Tensor

from topmast_kernels.gpu import decode_attention as gpu_decode
from topmast_kernels.gpu import prefill_attention as gpu
from topmast_kernels.paged_cache import Attention
from topmast_kernels.twin import prefill_attention as twin

# NumPy warns of -inf - -inf, which the kernels guard after the fact.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

ROWS, TILE = 32, 32
KERNEL = partial(gpu.prefill_attention, block_rows=ROWS, block=TILE)
# The kernel rounds its weights to 16 bits before they meet the values; the twin does not.
TOLERANCE = {torch.bfloat16: 4e-3, torch.float16: 5e-4, torch.int8: 4e-3, torch.float8_e4m3fn: 4e-3}
# Chunk and context of each sequence: nothing new, one token, a whole prompt, the rest of one, and a context that is
# shorter than its chunk, so that the chunk's first tokens see nothing.
COUNTS, LENGTHS = [0, 1, 33, 7, 3], [20, 1, 33, 70, 2]


def starts_of(counts: list[int]) -> Tensor:
    return torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32)


def query_for(pages: Pages, tokens: int, heads: int) -> Tensor:
    numbers = torch.randn(tokens, heads, pages.cache.dim, generator=torch.Generator().manual_seed(2))
    return (2 * numbers).to(torch.bfloat16 if pages.cache.quantised else pages.cache.keys.dtype)


def exact(query: Tensor) -> dict[str, Tensor]:
    """An fp32 buffer for the output, so that its rounding hides no error; poisoned."""
    return {"out": torch.full(query.shape, torch.nan), "lse": torch.full(query.shape[:-1], torch.nan)}


def check(
    got: Attention,
    query: Tensor,
    pages: Pages,
    counts: list[int],
    tolerance: float,
    *,
    scale: float | None = None,
    causal: bool = True,
    lse_tolerance: float = 1e-5,
) -> None:
    row = 0
    for sequence, count in enumerate(counts):
        length = int(pages.lengths[sequence])
        for token in range(count):
            visible = length - (count - 1 - token) if causal else length
            keys, values = pages.keys[sequence], pages.values[sequence]
            out, lse = attention(query[row], visible, keys, values, scale or pages.cache.dim**-0.5)
            torch.testing.assert_close(got.out[row].double(), torch.from_numpy(out), atol=tolerance, rtol=tolerance)
            torch.testing.assert_close(got.lse[row].double(), torch.from_numpy(lse), atol=lse_tolerance, rtol=1e-6)
            row += 1


@pytest.fixture(params=["gpu", "twin"])
def prefill(request: pytest.FixtureRequest) -> Callable[..., Attention]:
    return KERNEL if request.param == "gpu" else twin.prefill_attention


@pytest.mark.parametrize(
    ("dtype", "dim", "page_size", "heads", "kv_heads", "counts", "lengths"),
    [
        (torch.bfloat16, 64, 16, 4, 1, COUNTS, LENGTHS),
        (torch.float16, 128, 32, 2, 2, [17, 2], [65, 2]),
        (torch.bfloat16, 128, 64, 8, 1, [4, 5], [64, 69]),
        (torch.float16, 64, 32, 16, 1, [3, 2], [31, 65]),
        (torch.int8, 64, 16, 6, 2, [11, 3], [11, 33]),
        (torch.int8, 128, 32, 4, 1, [9], [32]),
        pytest.param(torch.float8_e4m3fn, 128, 32, 4, 1, [9, 2], [40, 2], marks=pytest.mark.old_triton),
        (torch.float8_e4m3fn, 64, 16, 3, 3, [12], [33]),
    ],
)
def test_chunks_of_several_prompts(
    prefill: Callable[..., Attention],
    dtype: torch.dtype,
    dim: int,
    page_size: int,
    heads: int,
    kv_heads: int,
    counts: list[int],
    lengths: list[int],
) -> None:
    pages = paged(lengths, kv_heads=kv_heads, dim=dim, page_size=page_size, dtype=dtype)
    query = query_for(pages, sum(counts), heads)
    got = prefill(query, pages.cache, pages.table, starts_of(counts), pages.lengths, **exact(query))
    check(got, query, pages, counts, 1e-5 if prefill is twin.prefill_attention else TOLERANCE[dtype])
    if counts is COUNTS:
        assert torch.equal(got.out[-3], torch.zeros(heads, dim))  # the token before the context's first one
        assert got.lse[-3].eq(-torch.inf).all()


def test_every_token_may_see_every_key(prefill: Callable[..., Attention]) -> None:
    pages = paged([33, 0, 64], kv_heads=1)
    query = query_for(pages, 8, 4)
    got = prefill(query, pages.cache, pages.table, starts_of([3, 1, 4]), pages.lengths, causal=False, **exact(query))
    check(got, query, pages, [3, 1, 4], TOLERANCE[torch.bfloat16], causal=False)


def test_default_blocks_over_a_long_prompt() -> None:
    pages = paged([200, 70], kv_heads=1)
    query = query_for(pages, 270, 1)
    got = gpu.prefill_attention(query, pages.cache, pages.table, starts_of([200, 70]), pages.lengths, **exact(query))
    check(got, query, pages, [200, 70], TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("scale", [0.02, 3.0])
def test_another_scale(prefill: Callable[..., Attention], scale: float) -> None:
    pages = paged([40], kv_heads=1, dtype=torch.float16)
    query = query_for(pages, 9, 2)
    got = prefill(query, pages.cache, pages.table, starts_of([9]), pages.lengths, scale=scale, **exact(query))
    check(got, query, pages, [9], TOLERANCE[torch.float16], scale=scale, lse_tolerance=1e-4)


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_scores_around_ten_thousand(prefill: Callable[..., Attention], offset: float) -> None:
    pages = paged([70], kv_heads=1, offset=offset)
    query = query_for(pages, 40, 1)
    query[..., 0] = 8.0
    got = prefill(query, pages.cache, pages.table, starts_of([40]), pages.lengths, **exact(query))
    check(got, query, pages, [40], 2e-2, lse_tolerance=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_a_prompt_has_the_same_bits_in_one_chunk_and_in_several(dtype: torch.dtype) -> None:
    """Chunk borders inside and on the borders of tiles and pages; keys of later chunks are not there yet."""
    length = 70
    pages = paged([length], kv_heads=1, dtype=dtype)
    query = query_for(pages, length, 3)
    whole = KERNEL(query, pages.cache, pages.table, starts_of([length]), pages.lengths)
    for borders in ([0, 1, 31, 70], [0, 32, 64, 70], [0, 69, 70]):
        for first, last in itertools.pairwise(borders):
            held = torch.tensor([last], dtype=torch.int32)
            part = KERNEL(query[first:last], pages.cache, pages.table, starts_of([last - first]), held)
            assert torch.equal(part.out, whole.out[first:last])
            assert torch.equal(part.lse, whole.lse[first:last])


def test_a_sequence_has_the_same_bits_in_every_batch() -> None:
    counts, lengths = [5, 0, 33, 12], [5, 8, 40, 66]
    pages = paged(lengths, kv_heads=1)
    query = query_for(pages, sum(counts), 3)
    starts = starts_of(counts)
    whole = KERNEL(query, pages.cache, pages.table, starts, pages.lengths)
    for order in ([3, 2, 1, 0], [2], [3], [0, 0, 3], [0, 1, 3, 0] * 16):
        rows = torch.cat([torch.arange(int(starts[s]), int(starts[s + 1])) for s in order])
        part = KERNEL(
            query[rows],
            pages.cache,
            pages.table[order].contiguous(),
            starts_of([counts[s] for s in order]),
            pages.lengths[order],
        )
        assert torch.equal(part.out, whole.out[rows])
        assert torch.equal(part.lse, whole.lse[rows])


def test_bits_do_not_depend_on_where_pages_lie() -> None:
    pages = paged([40], kv_heads=1)
    query = query_for(pages, 9, 2)
    moved = torch.from_numpy(np.random.default_rng(9).permutation(pages.cache.keys.shape[0]))
    back = moved.argsort()
    elsewhere = type(pages.cache)(pages.cache.keys[back], pages.cache.values[back])
    first = KERNEL(query, pages.cache, pages.table, starts_of([9]), pages.lengths)
    second = KERNEL(query, elsewhere, moved[pages.table.long()].int(), starts_of([9]), pages.lengths)
    assert torch.equal(first.out, second.out)
    assert torch.equal(first.lse, second.lse)


def test_strides_and_padding(prefill: Callable[..., Attention]) -> None:
    """The query inside a fused qkv projection, heads before slots in the cache, padding tokens behind the last one."""
    counts, lengths = [4, 9], [20, 9]
    pages = paged(lengths, kv_heads=2, heads_first=True)
    plain = paged(lengths, kv_heads=2)
    query = query_for(pages, 13, 6)
    fused = torch.full((18, 10, 64), torch.nan, dtype=torch.bfloat16)
    fused[:13, 2:8] = query
    out = torch.full((8, 18, 80), 7.0, dtype=torch.bfloat16)
    lse = torch.full((8, 18), 7.0)
    window = {"out": out[1:7, :, 8:72].transpose(0, 1), "lse": lse[1:7].T}
    got = prefill(fused[:, 2:8], pages.cache, pages.table, starts_of(counts), pages.lengths, **window)
    wanted = prefill(query, plain.cache, plain.table, starts_of(counts), plain.lengths)
    assert_same(Attention(got.out[:13], got.lse[:13]), wanted, bits=prefill is KERNEL)
    for untouched in (got.out[13:], got.lse[13:], out[0], out[7], out[:, :, :8], out[:, :, 72:]):
        assert untouched.eq(7.0).all()


def test_decode_agrees_with_prefill() -> None:
    """Not to the bit: decode joins splits."""
    pages = paged([65, 20], kv_heads=1, dtype=torch.float16)
    query = query_for(pages, 2, 4)
    first = KERNEL(query, pages.cache, pages.table, starts_of([1, 1]), pages.lengths, **exact(query))
    second = gpu_decode.decode_attention(
        query, pages.cache, pages.table, pages.lengths, split=64, block=32, **exact(query)
    )
    torch.testing.assert_close(first.out, second.out, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(first.lse, second.lse, atol=1e-5, rtol=1e-6)


def test_a_poisoned_sequence_stays_visible_and_alone(prefill: Callable[..., Attention]) -> None:
    pages = paged([40, 40, 20, 20], kv_heads=1)
    query = query_for(pages, 16, 2)
    starts = starts_of([4] * 4)
    clean = prefill(query, pages.cache, pages.table, starts, pages.lengths)
    pages.cache.keys[pages.table[1, 0]] = torch.nan
    query[8:12] = torch.nan
    got = prefill(query, pages.cache, pages.table, starts, pages.lengths)
    assert got.out[4:12].isnan().all()
    assert got.lse[4:12].isnan().all()
    for other in (slice(0, 4), slice(12, 16)):
        assert torch.equal(got.out[other], clean.out[other])


def test_a_length_beyond_the_table_is_nan(prefill: Callable[..., Attention]) -> None:
    pages = paged([40, 48, 30], kv_heads=1, spare_pages=1)
    query = query_for(pages, 12, 2)
    starts = starts_of([4] * 3)
    wanted = prefill(query, pages.cache, pages.table, starts, pages.lengths)
    pages.lengths[1] = 65
    got = prefill(query, pages.cache, pages.table, starts, pages.lengths)
    assert got.out[4:8].isnan().all()
    assert got.lse[4:8].isnan().all()
    assert torch.equal(got.out[:4], wanted.out[:4])
    assert torch.equal(got.out[8:], wanted.out[8:])


def test_no_tokens(prefill: Callable[..., Attention]) -> None:
    pages = paged([3])
    got = prefill(torch.empty(0, 4, 64).bfloat16(), pages.cache, pages.table, starts_of([0]), pages.lengths)
    assert got.out.shape == (0, 4, 64)
