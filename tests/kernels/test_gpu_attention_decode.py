"""Decode attention against float64, and what it promises about batches, page tables, strides and poisoned memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from oracle_attention import Pages, assert_same, attention, paged
from torch import Tensor

from topmast_kernels.gpu import decode_attention as gpu
from topmast_kernels.paged_cache import Attention, PagedCache
from topmast_kernels.twin import decode_attention as twin

# NumPy warns of -inf - -inf, which the kernels guard after the fact.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SPLIT, TILE = 64, 32
LENGTHS = [0, 1, 63, 64, 65, 130]  # around the ends of tiles, pages and splits
KERNEL = partial(gpu.decode_attention, split=SPLIT, block=TILE)
# The kernel rounds its weights to 16 bits before they meet the values; the twin does not.
TOLERANCE = {torch.bfloat16: 4e-3, torch.float16: 5e-4, torch.int8: 4e-3, torch.float8_e4m3fn: 4e-3}


def query_for(pages: Pages, tokens: int, heads: int, seed: int = 1) -> Tensor:
    cache = pages.cache
    numbers = torch.randn(len(pages.lengths), tokens, heads, cache.dim, generator=torch.Generator().manual_seed(seed))
    return (2 * numbers).to(torch.bfloat16 if cache.quantised else cache.keys.dtype)


def expected(query: Tensor, pages: Pages, scale: float, causal: bool = True) -> Attention:
    sequences, tokens = query.shape[:2]
    outs, lses = [], []
    for sequence in range(sequences):
        for token in range(tokens):
            visible = int(pages.lengths[sequence]) - (tokens - 1 - token if causal else 0)
            keys, values = pages.keys[sequence], pages.values[sequence]
            out, lse = attention(query[sequence, token], visible, keys, values, scale)
            outs.append(out)
            lses.append(lse)
    shape = query.shape[:3]
    return Attention(
        torch.from_numpy(np.stack(outs)).reshape(query.shape), torch.from_numpy(np.stack(lses)).reshape(shape)
    )


def exact(query: Tensor) -> dict[str, Tensor]:
    """An fp32 buffer for the output, so that its rounding hides no error; poisoned."""
    return {"out": torch.full(query.shape, torch.nan), "lse": torch.full(query.shape[:-1], torch.nan)}


def check(got: Attention, wanted: Attention, tolerance: float, lse_tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got.out.double(), wanted.out, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(got.lse.double(), wanted.lse, atol=lse_tolerance, rtol=1e-6)


@pytest.fixture(params=["gpu", "twin"])
def decode(request: pytest.FixtureRequest) -> Callable[..., Attention]:
    return KERNEL if request.param == "gpu" else twin.decode_attention


@pytest.mark.parametrize(
    ("dtype", "dim", "page_size", "heads", "kv_heads", "lengths"),
    [
        (torch.bfloat16, 64, 16, 4, 1, LENGTHS),
        (torch.float16, 128, 32, 2, 2, [0, 1, 65]),
        (torch.bfloat16, 128, 64, 8, 1, [0, 64, 66]),
        (torch.float16, 64, 16, 16, 1, [0, 17, 65]),
        (torch.int8, 64, 16, 6, 2, [0, 31, 129]),
        (torch.int8, 128, 32, 4, 1, [0, 33, 64]),
        pytest.param(torch.float8_e4m3fn, 128, 32, 4, 1, [0, 70], marks=pytest.mark.old_triton),
        (torch.float8_e4m3fn, 64, 16, 1, 1, [0, 1, 16, 129]),
    ],
)
def test_one_token_per_sequence(
    decode: Callable[..., Attention],
    dtype: torch.dtype,
    dim: int,
    page_size: int,
    heads: int,
    kv_heads: int,
    lengths: list[int],
) -> None:
    pages = paged(lengths, kv_heads=kv_heads, dim=dim, page_size=page_size, dtype=dtype)
    query = query_for(pages, 1, heads)
    wanted = expected(query, pages, dim**-0.5)
    got = decode(query[:, 0], pages.cache, pages.table, pages.lengths, **exact(query[:, 0]))
    tolerance = 1e-5 if decode is twin.decode_attention else TOLERANCE[dtype]
    check(Attention(got.out[:, None], got.lse[:, None]), wanted, tolerance)
    assert torch.equal(got.out[0], torch.zeros(heads, dim))  # the sequence without keys
    assert got.lse[0].eq(-torch.inf).all()


@pytest.mark.parametrize("tokens", [2, 8])
@pytest.mark.parametrize("causal", [True, False])
def test_several_tokens_per_sequence(decode: Callable[..., Attention], tokens: int, causal: bool) -> None:
    """Speculative decoding: the earliest tokens of short sequences see nothing, none sees those after it."""
    pages = paged([0, 4, 66], kv_heads=2)
    query = query_for(pages, tokens, 4)
    got = decode(query, pages.cache, pages.table, pages.lengths, causal=causal, **exact(query))
    check(got, expected(query, pages, 0.125, causal), TOLERANCE[torch.bfloat16])


def test_default_blocks_over_a_long_context() -> None:
    pages = paged([1500, 512, 513], kv_heads=1)
    query = query_for(pages, 1, 4)
    got = gpu.decode_attention(query, pages.cache, pages.table, pages.lengths, **exact(query))
    check(got, expected(query, pages, 0.125), TOLERANCE[torch.bfloat16])


def test_results_are_rounded_to_nearest() -> None:
    pages = paged([3, 70], kv_heads=1)
    query = query_for(pages, 1, 2)[:, 0]
    precise = KERNEL(query, pages.cache, pages.table, pages.lengths, **exact(query))
    rounded = KERNEL(query, pages.cache, pages.table, pages.lengths)
    assert rounded.out.dtype == torch.bfloat16
    assert torch.equal(rounded.out, precise.out.bfloat16())


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_scores_around_ten_thousand(decode: Callable[..., Attention], offset: float) -> None:
    """Scores of 1e4 differ in steps of 2**-10 in fp32, and that is all the accuracy that may be lost."""
    pages = paged([1, 130], kv_heads=1, offset=offset)
    query = query_for(pages, 1, 2)
    query[..., 0] = 8.0
    got = decode(query, pages.cache, pages.table, pages.lengths, **exact(query))
    check(got, expected(query, pages, 0.125), 2e-2, lse_tolerance=1e-2)


@pytest.mark.parametrize("scale", [0.02, 3.0])
def test_another_scale(decode: Callable[..., Attention], scale: float) -> None:
    pages = paged([5, 70], kv_heads=1, dtype=torch.float16)
    query = query_for(pages, 1, 2)
    got = decode(query, pages.cache, pages.table, pages.lengths, scale=scale, **exact(query))
    check(got, expected(query, pages, scale), TOLERANCE[torch.float16], lse_tolerance=1e-4)


def test_a_sequence_has_the_same_bits_in_every_batch() -> None:
    pages = paged([66, 0, 130, 64, 1, 30], kv_heads=1, dtype=torch.int8)
    query = query_for(pages, 1, 2)
    whole = KERNEL(query, pages.cache, pages.table, pages.lengths)
    for order in ([5, 4, 3, 2, 1, 0], [2, 0], [3, 3], [0], [2], [4], [0, 4, 5, 1] * 16):
        part = KERNEL(query[order], pages.cache, pages.table[order].contiguous(), pages.lengths[order])
        assert torch.equal(part.out, whole.out[order])
        assert torch.equal(part.lse, whole.lse[order])


def test_pages_beyond_two_billion_numbers() -> None:
    """A page's place in the cache needs 64 bits. The memory between the pages is never touched, so never taken."""
    pages = paged([20], kv_heads=1, dtype=torch.int8)
    query = query_for(pages, 1, 2)[:, 0]
    wanted = KERNEL(query, pages.cache, pages.table, pages.lengths)
    far = 2**31 + 64
    vast = torch.empty(far + 4096, dtype=torch.int8)
    entries = []
    for which, source in enumerate((pages.cache.keys, pages.cache.values)):
        spread = vast[which * 2048 :].as_strided((2, 16, 1, 64), (far, 64, 64, 1))
        spread.copy_(source[pages.table[0, :2].long()])
        entries.append(spread)
    scales = (pages.cache.key_scales, pages.cache.value_scales)
    picked = [scale[pages.table[0, :2].long()] for scale in scales if scale is not None]
    table = torch.tensor([[0, 1]], dtype=torch.int32)
    got = KERNEL(query, PagedCache(*entries, *picked), table, pages.lengths)
    assert torch.equal(got.out, wanted.out)


def test_bits_do_not_depend_on_the_width_of_the_table() -> None:
    """One split is answered by one launch, several by two."""
    pages = paged([1, 40, 64], kv_heads=1)
    query = query_for(pages, 1, 2)
    wide = KERNEL(query, pages.cache, pages.table, pages.lengths)
    narrow = KERNEL(query, pages.cache, pages.table, pages.lengths, max_context=SPLIT)
    assert pages.table.shape[1] * pages.cache.page_size > SPLIT
    assert torch.equal(wide.out, narrow.out)
    assert torch.equal(wide.lse, narrow.lse)


def test_bits_do_not_depend_on_where_pages_lie() -> None:
    pages = paged([1, 65], kv_heads=1, dtype=torch.float8_e4m3fn)
    query = query_for(pages, 1, 2)
    count = pages.cache.keys.shape[0]
    moved = torch.from_numpy(np.random.default_rng(9).permutation(count))  # page p moves to moved[p]
    back = moved.argsort()
    cache, scales = pages.cache, (pages.cache.key_scales, pages.cache.value_scales)
    assert scales[0] is not None
    assert scales[1] is not None
    elsewhere = PagedCache(
        cache.keys.view(torch.uint8)[back].view(cache.keys.dtype),
        cache.values.view(torch.uint8)[back].view(cache.keys.dtype),
        scales[0][back],
        scales[1][back],
    )
    first = KERNEL(query, cache, pages.table, pages.lengths)
    second = KERNEL(query, elsewhere, moved[pages.table.long()].int(), pages.lengths)
    assert torch.equal(first.out, second.out)
    assert torch.equal(first.lse, second.lse)


@pytest.mark.parametrize("heads_first", [False, True])
def test_strides(decode: Callable[..., Attention], heads_first: bool) -> None:
    """The query inside a fused qkv projection, the table inside a wider one, results inside a larger buffer."""
    lengths = [0, 1, 65]
    pages = paged(lengths, kv_heads=2, heads_first=heads_first)
    plain = paged(lengths, kv_heads=2)
    query = query_for(pages, 1, 6)[:, 0]
    fused = torch.full((len(lengths), 10, 64), torch.nan, dtype=torch.bfloat16)
    fused[:, 2:8] = query
    table = torch.full((len(lengths), 40), 10**6, dtype=torch.int32)
    table[:, 3 : 3 + pages.table.shape[1]] = pages.table
    out = torch.full((8, len(lengths), 80), 7.0, dtype=torch.bfloat16)
    lse = torch.full((8, len(lengths)), 7.0)
    window = {"out": out[1:7, :, 8:72].transpose(0, 1), "lse": lse[1:7].T}
    narrow_table = table[:, 3 : 3 + pages.table.shape[1]]
    got = decode(fused[:, 2:8], pages.cache, narrow_table, pages.lengths, **window)
    wanted = decode(query, plain.cache, plain.table, plain.lengths)
    assert_same(got, wanted, bits=decode is KERNEL)
    assert got.out is window["out"]
    assert out[0].eq(7.0).all()
    assert out[7].eq(7.0).all()
    assert out[:, :, :8].eq(7.0).all()
    assert out[:, :, 72:].eq(7.0).all()


def test_given_buffers_are_all_that_is_needed() -> None:
    pages = paged([1, 65], kv_heads=1)
    query = query_for(pages, 2, 2)
    capacity = pages.table.shape[1] * pages.cache.page_size
    floats = gpu.decode_workspace_floats(query, capacity, split=SPLIT)
    workspace = torch.full((floats + 5,), torch.nan)
    got = KERNEL(query, pages.cache, pages.table, pages.lengths, workspace=workspace, **exact(query))
    check(got, expected(query, pages, 0.125), TOLERANCE[torch.bfloat16])
    assert workspace[floats:].isnan().all()
    again = KERNEL(query, pages.cache, pages.table, pages.lengths, workspace=workspace, **exact(query))
    assert torch.equal(got.out, again.out)
    with pytest.raises(ValueError, match=f"at least {floats} numbers"):
        KERNEL(query, pages.cache, pages.table, pages.lengths, workspace=workspace[: floats - 1])


def test_a_poisoned_sequence_stays_visible_and_alone(decode: Callable[..., Attention]) -> None:
    pages = paged([70, 70, 20, 20], kv_heads=1)
    query = query_for(pages, 1, 2)[:, 0]
    clean = decode(query, pages.cache, pages.table, pages.lengths)
    pages.cache.keys[pages.table[1, 0]] = torch.nan  # the whole first page: a tile of nothing but NaN
    query[2] = torch.nan
    got = decode(query, pages.cache, pages.table, pages.lengths)
    for poisoned in (1, 2):
        assert got.out[poisoned].isnan().all()
        assert got.lse[poisoned].isnan().all()
    for other in (0, 3):
        assert torch.equal(got.out[other], clean.out[other])


@pytest.mark.parametrize("max_context", [None, 48, 200])
def test_a_length_beyond_the_limit_is_nan(decode: Callable[..., Attention], max_context: int | None) -> None:
    pages = paged([40, 48, 30], kv_heads=1, spare_pages=1)
    query = query_for(pages, 1, 2)[:, 0]
    wanted = decode(query, pages.cache, pages.table, pages.lengths)
    pages.lengths[1] = 65 if max_context != 48 else 49
    got = decode(query, pages.cache, pages.table, pages.lengths, max_context=max_context)
    assert got.out[1].isnan().all()
    assert got.lse[1].isnan().all()
    assert torch.equal(got.out[[0, 2]], wanted.out[[0, 2]])


def test_no_sequences() -> None:
    pages = paged([3])
    for implementation in (gpu.decode_attention, twin.decode_attention):
        got = implementation(torch.empty(0, 4, 64).bfloat16(), pages.cache, pages.table[:0], pages.lengths[:0])
        assert got.out.shape == (0, 4, 64)
