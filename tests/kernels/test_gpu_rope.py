"""Rotation, norms of heads and writes to the paged cache, in Triton and in torch, against float64."""

from __future__ import annotations

import numpy as np
import oracle_small as oracle
import pytest
import torch
from torch import Tensor

from topmast_kernels.gpu import rope as gpu
from topmast_kernels.paged_cache import PagedCache
from topmast_kernels.twin import rope as twin
from topmast_kernels.twin.rope import LARGEST

both = pytest.mark.parametrize("implementation", [gpu, twin], ids=["gpu", "twin"])
POSITIONS, PAGES, SIZE, EPS = 50, 6, 4, 1e-6


def rope_table(dim: int) -> Tensor:
    """fp32 [POSITIONS, dim]: cosines, then sines, of position / 10000 ** (2 * lane / dim)."""
    angles = torch.arange(POSITIONS)[:, None] / 10000.0 ** (torch.arange(0, dim, 2) / dim)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def empty_cache(kv_heads: int, dim: int, dtype: torch.dtype) -> PagedCache:
    """Poisoned: whatever a test did not write must still be the poison."""
    pages = torch.full((2, PAGES, SIZE, kv_heads, dim), 77.0).to(dtype)
    scales = torch.full((2, PAGES, SIZE, kv_heads), 77.0) if dtype in LARGEST else None
    return PagedCache(pages[0], pages[1], *(scales if scales is not None else (None, None)))


def fused(tokens: int, heads: int, dim: int, dtype: torch.dtype) -> Tensor:
    """[tokens, heads * dim] as a slice of longer rows."""
    generator = torch.Generator().manual_seed(heads * dim)
    return (torch.randn(tokens, heads * dim + 16, generator=generator) * 2).to(dtype)[:, 8:-8]


def stored(pool: Tensor, scales: Tensor | None, slots: Tensor) -> np.ndarray:
    """What an attention reads from these slots, [slots, kv_heads, dim]."""
    values = oracle.wide(pool.reshape(PAGES * SIZE, *pool.shape[2:])[slots])
    return values if scales is None else values * oracle.wide(scales.reshape(PAGES * SIZE, -1)[slots])[..., None]


@both
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "normed"),
    [(9, 3, 64, False), (2, 2, 128, True), pytest.param(12, 1, 64, True, marks=pytest.mark.old_triton)],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_queries_turn_and_keys_and_values_land_in_their_slots(
    implementation, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, normed: bool
) -> None:
    qkv, table = fused(5, heads + 2 * kv_heads, dim, dtype), rope_table(dim)
    positions = torch.tensor([0, 1, 17, 49, 3], dtype=torch.int32)
    slots = torch.tensor([5, -1, 23, 0, 8])
    weights = [torch.linspace(0.5, 2, dim).to(dtype), torch.linspace(2, 0.1, dim).to(dtype)] if normed else [None, None]
    cache, out = empty_cache(kv_heads, dim, dtype), torch.full((5, heads, dim), float("nan"), dtype=dtype)
    call = {"heads": heads, "q_weight": weights[0], "k_weight": weights[1], "eps": EPS}
    assert implementation.rope_and_cache(qkv, positions, table, slots, cache, out=out, **call) is out

    parts = oracle.wide(qkv).reshape(5, -1, dim)
    query, key = parts[:, :heads], parts[:, heads : heads + kv_heads]
    if normed:
        query = oracle.rms_norm(query, oracle.wide(weights[0]), EPS)
        key = oracle.rms_norm(key, oracle.wide(weights[1]), EPS)
    angles = oracle.wide(table[positions.long()])
    oracle.assert_rounded(out, oracle.rotate(query, angles), scale=np.abs(query).max())
    kept = slots >= 0
    rows = cache.keys.reshape(PAGES * SIZE, kv_heads, dim)
    oracle.assert_rounded(rows[slots[kept]], oracle.rotate(key, angles)[kept], scale=np.abs(key).max())
    rows[slots[kept]] = 77.0
    assert (cache.keys == 77).all()  # nothing beside the four slots, and nothing for slot -1
    values = cache.values.reshape(PAGES * SIZE, kv_heads, dim)
    assert torch.equal(values[slots[kept]], qkv.reshape(5, -1, dim)[:, heads + kv_heads :][kept])
    values[slots[kept]] = 77.0
    assert (cache.values == 77).all()


@both
@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
def test_quantised_pages_keep_each_heads_scale(implementation, kind: torch.dtype) -> None:
    heads, kv_heads, dim = 2, 3, 64
    qkv, table = fused(6, heads + 2 * kv_heads, dim, torch.float16), rope_table(dim)
    qkv[1, (heads + kv_heads) * dim : (heads + kv_heads + 1) * dim] = 0  # a head of zeros
    qkv[2, -1] = 3e4  # an outlier costs its own head precision, no other
    slots, positions = torch.tensor([1, 2, 3, 11, 12, 22]), torch.arange(6, dtype=torch.int32)
    cache = empty_cache(kv_heads, dim, kind)
    implementation.rope_and_cache(qkv, positions, table, slots, cache, heads=heads)
    parts = oracle.wide(qkv).reshape(6, -1, dim)
    key = oracle.rotate(parts[:, heads : heads + kv_heads], oracle.wide(table[:6]))
    for pool, scales, exact in (
        (cache.keys, cache.key_scales, key),
        (cache.values, cache.value_scales, parts[:, heads + kv_heads :]),
    ):
        assert scales is not None
        peak = np.abs(exact).max(axis=-1)
        np.testing.assert_allclose(oracle.wide(scales.reshape(-1, kv_heads)[slots]), peak / LARGEST[kind], rtol=1e-6)
        error = np.abs(stored(pool, scales, slots) - exact)
        step = (
            peak[..., None] / 127 if kind == torch.int8 else np.maximum(np.abs(exact) / 8, peak[..., None] / 448 / 64)
        )
        assert (error <= step / 2 * 1.001).all()
        scales.reshape(-1, kv_heads)[slots] = 77.0
        assert (scales == 77).all()


@pytest.mark.old_triton
@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
def test_both_kinds_store_the_same_numbers(kind: torch.dtype) -> None:
    qkv, table = (
        fused(7, 5, 64, torch.float32),
        torch.cat([torch.ones(POSITIONS, 32), torch.zeros(POSITIONS, 32)], dim=1),
    )
    qkv[:, -64:] = torch.linspace(-448, 448, 7 * 64).view(7, 64)  # every kind of fp8 number, carries included
    caches = [empty_cache(2, 64, kind) for _ in range(2)]
    slots, positions = torch.arange(7), torch.arange(7, dtype=torch.int32)
    for implementation, cache in zip((gpu, twin), caches, strict=True):
        implementation.rope_and_cache(qkv, positions, table, slots, cache, heads=1)
    for name in ("keys", "values", "key_scales", "value_scales"):
        first, second = (getattr(cache, name) for cache in caches)
        assert torch.equal(first.view(torch.int8), second.view(torch.int8)), name


@both
def test_queries_may_overwrite_their_part_of_qkv(implementation) -> None:
    qkv, table, positions = fused(3, 6, 64, torch.bfloat16), rope_table(64), torch.tensor([4, 5, 6], dtype=torch.int32)
    slots = torch.tensor([0, 4, 9])
    expected_cache, cache = empty_cache(1, 64, torch.bfloat16), empty_cache(1, 64, torch.bfloat16)
    expected = implementation.rope_and_cache(qkv, positions, table, slots, expected_cache, heads=4)
    rest = qkv[:, 256:].clone()
    part = qkv[:, :256].unflatten(1, (4, 64))
    implementation.rope_and_cache(qkv, positions, table, slots, cache, heads=4, out=part)
    assert torch.equal(part, expected) and torch.equal(qkv[:, 256:], rest)
    assert torch.equal(cache.keys, expected_cache.keys) and torch.equal(cache.values, expected_cache.values)


@both
def test_pages_may_have_any_strides(implementation) -> None:
    qkv, table, positions = fused(3, 4, 64, torch.float16), rope_table(64), torch.tensor([4, 5, 6], dtype=torch.int32)
    slots, plain = torch.tensor([0, 13, 21]), empty_cache(1, 64, torch.float16)
    apart = torch.full((1, 2, PAGES, SIZE, 70), 77.0, dtype=torch.float16)  # head, key or value, page, place, lane
    strided = PagedCache(*(apart[..., :64].permute(1, 2, 3, 0, 4)))
    for cache in (plain, strided):
        implementation.rope_and_cache(qkv, positions, table, slots, cache, heads=2)
    assert torch.equal(plain.keys, strided.keys) and torch.equal(plain.values, strided.values)
    assert (apart[..., 64:] == 77).all()


def test_bits_of_a_token_do_not_depend_on_the_others() -> None:
    qkv, table, positions = fused(6, 13, 64, torch.bfloat16), rope_table(64), torch.arange(6, dtype=torch.int32)
    weight, together = torch.linspace(0.5, 2, 64), empty_cache(2, 64, torch.int8)
    call = {"heads": 9, "q_weight": weight, "k_weight": weight}
    out = gpu.rope_and_cache(qkv, positions, table, torch.arange(6), together, **call)
    for token in range(6):
        cache, one = empty_cache(2, 64, torch.int8), slice(token, token + 1)
        alone = gpu.rope_and_cache(qkv[one], positions[one], table, torch.tensor([2]), cache, **call)
        assert torch.equal(alone[0], out[token])
        assert torch.equal(cache.keys[0, 2], together.keys.view(-1, 2, 64)[token])
        assert torch.equal(cache.key_scales[0, 2], together.key_scales.view(-1, 2)[token])


@both
def test_what_is_out_of_range_touches_no_memory(implementation) -> None:
    qkv, table = fused(3, 3, 64, torch.float16), rope_table(64)
    positions, slots = torch.tensor([-1, POSITIONS, 0], dtype=torch.int32), torch.tensor([3, PAGES * SIZE, -(2**40)])
    cache = empty_cache(1, 64, torch.float16)
    out = implementation.rope_and_cache(qkv, positions, table, slots, cache, heads=1)
    assert out[:2].isnan().all() and out[2].isfinite().all()
    assert cache.keys[0, 3].isnan().all()
    cache.keys[0, 3] = cache.values[0, 3] = 77.0
    assert (cache.keys == 77).all() and (cache.values == 77).all()


@both
@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn])
def test_nan_spoils_its_own_head_only(implementation, kind: torch.dtype) -> None:
    qkv, table, cache = fused(2, 5, 64, torch.float32), rope_table(64), empty_cache(2, 64, kind)
    qkv[0, 3 * 64 + 7] = float("nan")
    implementation.rope_and_cache(qkv, torch.zeros(2, dtype=torch.int32), table, torch.tensor([0, 1]), cache, heads=1)
    assert cache.value_scales is not None and cache.value_scales[0, 0].isnan().tolist() == [True, False]
    assert cache.value_scales[0, 1].isfinite().all()


@both
def test_wrong_arguments_are_named(implementation) -> None:
    qkv, table, cache = fused(2, 3, 64, torch.float16), rope_table(64), empty_cache(1, 64, torch.float16)
    positions, slots = torch.zeros(2, dtype=torch.int32), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="qkv has 192 columns"):
        implementation.rope_and_cache(qkv, positions, table, slots, cache, heads=2)
    with pytest.raises(ValueError, match="slots is"):
        implementation.rope_and_cache(qkv, positions, table, slots.int(), cache, heads=1)
    with pytest.raises(ValueError, match="table is"):
        implementation.rope_and_cache(qkv, positions, table[:, :32], slots, cache, heads=1)
