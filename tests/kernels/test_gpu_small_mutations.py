"""Bugs in norm, rotation, gate and weight-only product, each put into a copy of the package, that their tests find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracle_small as oracle
import pytest
import torch
from mutation import Load, Mutation, assert_found

from topmast_kernels.paged_cache import PagedCache
from topmast_kernels.twin.matmul import QuantisedWeight

NORM, ROPE, QUANTISE, SILU, MATMUL = (f"gpu/{name}.py" for name in ("norm", "rope", "quantise", "silu", "matmul"))


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(4)).bfloat16()


def norm_is_right(load: Load) -> None:
    x, weight = numbers(2, 2, 40), numbers(40)
    found = load("gpu.norm").rms_norm(x[0], weight, eps=0.5, residual=x[1])
    assert torch.equal(found.residual, (x[0].float() + x[1].float()).bfloat16())
    oracle.assert_rounded(found.out, oracle.rms_norm(oracle.wide(found.residual), oracle.wide(weight), 0.5))


def norm_is_the_same_fused(load: Load) -> None:
    x, weight = numbers(2, 30, 40), torch.ones(40)
    fused = load("gpu.norm").rms_norm(x[0], weight, eps=1e-5, residual=x[1])
    assert torch.equal(load("gpu.norm").rms_norm(fused.residual, weight, eps=1e-5).out, fused.out)


def rope(load: Load, slots: list[int], kind: torch.dtype = torch.bfloat16) -> tuple[torch.Tensor, PagedCache]:
    """Two tokens of 9 query heads and one cache head, at positions 3 and 1 of a table of 4; the cache lies in between
    pages of others.
    """
    pages = torch.full((2, 5, 4, 1, 64), 77.0).to(kind)[:, 1:4]
    scales = torch.full((2, 3, 4, 1), 77.0) if kind == torch.int8 else (None, None)
    cache = PagedCache(pages[0], pages[1], *scales)
    angles = torch.arange(4)[:, None] * torch.linspace(1, 0.01, 32)
    table = torch.cat([angles.cos(), angles.sin()], dim=1)
    positions = torch.tensor([3, 1], dtype=torch.int32)
    qkv = numbers(2, 11 * 64)
    out = load("gpu.rope").rope_and_cache(qkv, positions, table, torch.tensor(slots), cache, heads=9)
    return out, cache


def rotated(first: int, last: int) -> np.ndarray:
    angles = np.array([3.0, 1.0])[:, None] * np.linspace(1, 0.01, 32, dtype=np.float32)
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return oracle.rotate(oracle.wide(numbers(2, 11 * 64)).reshape(2, 11, 64)[:, first:last], table)


def rope_is_right(load: Load) -> None:
    out, cache = rope(load, [9, 2])
    oracle.assert_rounded(out, rotated(0, 9), scale=4.0)
    keys = cache.keys.view(12, 1, 64)
    oracle.assert_rounded(keys[[9, 2]], rotated(9, 10), scale=4.0)
    keys[[9, 2]] = 77.0
    assert (keys == 77).all()


def no_slot_writes_nothing(load: Load) -> None:
    _, cache = rope(load, [-1, 2])
    for pool in (cache.keys, cache.values):
        before = pool.as_strided((4, 64), (64, 1), pool.storage_offset() - 256)  # the page of another
        assert (before == 77).all()


def int8_cache_is_near(load: Load) -> None:
    _, cache = rope(load, [9, 2], torch.int8)
    assert cache.key_scales is not None
    found = cache.keys.view(12, 64)[[9, 2]].double() * cache.key_scales.view(12, 1)[[9, 2]].double()
    assert np.abs(found.numpy() - rotated(9, 10)[:, 0]).max() <= float(cache.key_scales.view(12)[[9, 2]].max()) * 0.501


def gate_is_right(load: Load) -> None:
    x = numbers(3, 1300)
    found = load("gpu.silu").silu_mul(x)
    oracle.assert_rounded(found, oracle.silu_mul(oracle.wide(x[:, :650]), oracle.wide(x[:, 650:])))


def product(load: Load, rows: int, outputs: int, depth: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    x, weight = numbers(rows, depth), QuantisedWeight.of(numbers(outputs, depth).float(), torch.int8)
    dense = oracle.wide(weight.numbers) * oracle.wide(weight.scales)[:, None]
    found = load("gpu.matmul").matmul(x, weight)
    return found, oracle.wide(x) @ dense.T, np.abs(oracle.wide(x)) @ np.abs(dense).T


def product_is_right(load: Load) -> None:
    found, expected, size = product(load, 3, 70, 200)
    oracle.assert_rounded(found, expected, scale=size)


def cut_product_is_right(load: Load) -> None:
    found, expected, size = product(load, 3, 70, 700)
    oracle.assert_rounded(found, expected, scale=size)


def counters_return_to_zero(load: Load) -> None:
    x, weight = numbers(2, 640), QuantisedWeight.of(numbers(64, 640).float(), torch.int8)
    matmul = load("gpu.matmul")
    workspace = matmul.MatmulWorkspace.make(2, 64, 640, "cpu")
    first = matmul.matmul(x, weight, workspace=workspace)
    assert torch.equal(matmul.matmul(x, weight, workspace=workspace, out=torch.full_like(first, 9.0)), first)


MUTATIONS = [
    Mutation("the mean is over the block", NORM, "axis=0) / width", "axis=0) / BLOCK", norm_is_right),
    Mutation("no eps", NORM, "mean_square + eps", "mean_square", norm_is_right),
    Mutation("the unrounded sum is normalised", NORM, "rounded.to(tl.float32)", "value", norm_is_the_same_fused),
    Mutation("turns the other way", ROPE, "low * cos - high * sin", "low * cos + high * sin", rope_is_right),
    Mutation("the ninth head is left out", ROPE, "(HEADS + GROUP - 1) // GROUP", "HEADS // GROUP", rope_is_right),
    Mutation("slot -1 is written", ROPE, "if (slot >= 0) &", "if (slot >= -12) &", no_slot_writes_nothing),
    Mutation(
        "page and place swapped", ROPE, "slot // page_size, slot % page_size", "slot % 3, slot // 3", rope_is_right
    ),
    Mutation("int8 cuts off", QUANTISE, "((ratio + 12582912.0) - 12582912.0)", "ratio", int8_cache_is_near),
    Mutation(
        "the last block of the gate is missing", SILU, "inside = at < width", "inside = at < width - 2", gate_is_right
    ),
    Mutation("up is gated", SILU, "+ width + at", "+ at", gate_is_right),
    Mutation("the depth's rest is lost", MATMUL, "left = step < depth - start", "left = step < 0", product_is_right),
    Mutation(
        "one stretch is not added", MATMUL, "in range(STRETCHES)", "in range(STRETCHES - 1)", cut_product_is_right
    ),
    Mutation("the last is not recognised", "gpu/workspace.py", "programs - 1\n", "programs\n", cut_product_is_right),
    Mutation("the counter stays", "gpu/workspace.py", "tl.store(arrival, 0)", "pass", counters_return_to_zero),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
def test_a_bug_is_found(mutation: Mutation, tmp_path: Path) -> None:
    assert_found(mutation, tmp_path)
