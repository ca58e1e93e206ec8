"""Attention over two sets of keys, merged, is attention over both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from oracle_attention import paged
from torch import Tensor

from topmast_kernels.gpu import merge as gpu
from topmast_kernels.gpu.decode_attention import decode_attention
from topmast_kernels.gpu.prefill_attention import prefill_attention
from topmast_kernels.paged_cache import Attention
from topmast_kernels.twin import merge as twin

# NumPy warns of -inf - -inf, which the kernels guard after the fact.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

EMPTY = -torch.inf


@pytest.fixture(params=["gpu", "twin"])
def merge(request: pytest.FixtureRequest) -> Callable[..., Attention]:
    return gpu.merge_attention if request.param == "gpu" else twin.merge_attention


def partial_result(seed: int, rows: int = 5, heads: int = 19, dtype: torch.dtype = torch.float32) -> Attention:
    """Of 19 heads, which is no multiple of what a program handles."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(rows, heads, 64, generator=generator).to(dtype)
    return Attention(out, 5 * torch.randn(rows, heads, generator=generator))


def expected(first: Attention, second: Attention) -> Attention:
    logs = torch.stack([first.lse, second.lse]).double()
    outs = torch.stack([first.out, second.out]).double()
    return Attention((logs.softmax(0)[..., None] * outs).sum(0), logs.logsumexp(0))


@pytest.mark.old_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_the_softmax_of_the_lses(merge: Callable[..., Attention], dtype: torch.dtype) -> None:
    first, second = partial_result(1, dtype=dtype), partial_result(2, dtype=dtype)
    first.lse[0], second.lse[0] = 3e4, 3e4 + 1.0
    first.lse[1], second.lse[1] = -200.0, 200.0
    got = merge(first, second, out=torch.full(first.out.shape, torch.nan), lse=torch.full(first.lse.shape, torch.nan))
    wanted = expected(first, second)
    torch.testing.assert_close(got.out.double(), wanted.out, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(got.lse.double(), wanted.lse, atol=1e-6, rtol=1e-6)
    rounded = merge(first, second)
    assert rounded.out.dtype == dtype
    assert torch.equal(rounded.out, got.out.to(dtype))


def test_an_empty_side_changes_nothing(merge: Callable[..., Attention]) -> None:
    first, second = partial_result(1), partial_result(2)
    second.lse[0], second.out[0] = EMPTY, torch.nan  # what an engine has not written
    first.lse[1], first.out[1] = EMPTY, torch.nan
    first.lse[2], second.lse[2] = EMPTY, EMPTY
    got = merge(first, second)
    assert torch.equal(got.out[0], first.out[0])
    assert torch.equal(got.lse[0], first.lse[0])
    assert torch.equal(got.out[1], second.out[1])
    assert torch.equal(got.lse[1], second.lse[1])
    assert torch.equal(got.out[2], torch.zeros(19, 64))
    assert got.lse[2].eq(EMPTY).all()


def test_nan_stays_visible(merge: Callable[..., Attention]) -> None:
    first, second = partial_result(1), partial_result(2)
    first.out[0], first.lse[1] = torch.nan, torch.nan
    got = merge(first, second)
    assert got.out[:2].isnan().all()
    assert got.lse[1].isnan().all()
    assert got.out[2:].isfinite().all()


def test_order_does_not_matter(merge: Callable[..., Attention]) -> None:
    first, second, third = (partial_result(seed) for seed in (1, 2, 3))
    forth, back = merge(first, second), merge(second, first)
    assert torch.equal(forth.out, back.out)
    assert torch.equal(forth.lse, back.lse)
    left, right = merge(merge(first, second), third), merge(first, merge(second, third))
    torch.testing.assert_close(left.out, right.out, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(left.lse, right.lse, atol=1e-6, rtol=1e-6)


def test_strides_and_merging_in_place(merge: Callable[..., Attention]) -> None:
    first, second = partial_result(1), partial_result(2)
    wanted = merge(first, second)
    apart = Attention(second.out.transpose(0, 1).contiguous().transpose(0, 1), second.lse.T.contiguous().T)
    got = merge(first, apart, out=first.out, lse=first.lse)
    assert got.out is first.out
    assert torch.equal(got.out, wanted.out)
    assert torch.equal(got.lse, wanted.lse)


def fp32_like(query: Tensor) -> dict[str, Tensor]:
    return {"out": torch.full(query.shape, torch.nan), "lse": torch.full(query.shape[:-1], torch.nan)}


def test_keys_in_two_parts_merge_to_the_whole(merge: Callable[..., Attention]) -> None:
    """Decode over a prefix of two pages and over the rest; sequences shorter than the prefix have no rest."""
    pages = paged([20, 32, 33, 100], kv_heads=1, dtype=torch.float16)
    query = torch.randn(4, 2, 64, generator=torch.Generator().manual_seed(5)).half()
    decode = partial(decode_attention, query, pages.cache, split=64, block=32)
    whole = decode(pages.table, pages.lengths, **fp32_like(query))
    prefix = decode(pages.table[:, :2], pages.lengths.clamp(max=32), **fp32_like(query))
    rest = decode(pages.table[:, 2:], (pages.lengths - 32).clamp(min=0), **fp32_like(query))
    merged = merge(prefix, rest)
    torch.testing.assert_close(merged.out, whole.out, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(merged.lse, whole.lse, atol=1e-5, rtol=1e-6)
    assert torch.equal(merged.out[:2], whole.out[:2])


def test_a_prompt_and_its_shared_prefix_merge_to_the_whole(merge: Callable[..., Attention]) -> None:
    pages = paged([50], kv_heads=1, dtype=torch.float16)
    query = torch.randn(18, 2, 64, generator=torch.Generator().manual_seed(5)).half()
    starts = torch.tensor([0, 18], dtype=torch.int32)
    prefill = partial(prefill_attention, query, pages.cache, block_rows=32, block=32)
    whole = prefill(pages.table, starts, pages.lengths, **fp32_like(query))
    prefix = prefill(pages.table[:, :2], starts, pages.lengths.clamp(max=32), causal=False, **fp32_like(query))
    rest = prefill(pages.table[:, 2:], starts, pages.lengths - 32, **fp32_like(query))
    merged = merge(prefix, rest)
    torch.testing.assert_close(merged.out, whole.out, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(merged.lse, whole.lse, atol=1e-5, rtol=1e-6)


def test_no_rows(merge: Callable[..., Attention]) -> None:
    part = partial_result(1, rows=0)
    assert merge(part, part).out.shape == (0, 19, 64)


def test_wrong_arguments_are_named(merge: Callable[..., Attention]) -> None:
    good = partial_result(1)
    for bad, sentence in (
        (Attention(good.out[:3], good.lse[:3]), "second.out .* as both"),
        (Attention(good.out, good.lse.double()), "second.lse .* must be float32"),
        (Attention(good.out.double(), good.lse), "second.out .* must be bf16, fp16 or fp32"),
        (Attention(good.out, good.lse[:, :5]), r"must be float32 \[5, 19\]"),
    ):
        with pytest.raises(ValueError, match=sentence):
            merge(good, bad)
