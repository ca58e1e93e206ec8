"""Products with quantised weights, in Triton and in torch, against float64."""

from __future__ import annotations

import numpy as np
import oracle_small as oracle
import pytest
import torch
from torch import Tensor

from topmast_kernels.gpu import matmul as gpu
from topmast_kernels.twin import matmul as twin
from topmast_kernels.twin.matmul import QuantisedWeight

both = pytest.mark.parametrize("implementation", [gpu, twin], ids=["gpu", "twin"])
KINDS = [torch.int8, torch.float8_e4m3fn]


def rows(count: int, depth: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    return torch.randn(count, depth, generator=torch.Generator().manual_seed(seed)).to(dtype)


def weights(outputs: int, depth: int, kind: torch.dtype) -> QuantisedWeight:
    spread = torch.logspace(-3, 1, outputs)[:, None]  # every output needs its own scale
    return QuantisedWeight.of(rows(outputs, depth, torch.float32, 2) * spread, kind)


def assert_product(found: Tensor, x: Tensor, weight: QuantisedWeight, bias: Tensor | None = None) -> None:
    dense = oracle.wide(weight.numbers.float()) * oracle.wide(weight.scales)[:, None]
    expected = oracle.wide(x) @ dense.T + (0 if bias is None else oracle.wide(bias))
    oracle.assert_rounded(found, expected, scale=np.abs(oracle.wide(x)) @ np.abs(dense).T)


@both
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("count", "outputs", "depth"),
    [(1, 64, 128), (3, 100, 576), pytest.param(33, 65, 1100, marks=pytest.mark.old_triton), (2, 1, 7)],
)
def test_products_are_exact_and_rounded_once(implementation, kind, dtype, count: int, outputs: int, depth: int) -> None:
    x, weight = rows(count, depth + 8, dtype)[:, :depth], weights(outputs, depth, kind)
    out = torch.full((count, outputs + 3), float("nan"), dtype=dtype)[:, :outputs]
    bias = torch.linspace(-2, 2, outputs).to(dtype)
    assert implementation.matmul(x, weight, bias=bias, out=out) is out
    assert_product(out, x, weight, bias)
    assert_product(implementation.matmul(x, weight), x, weight)


@pytest.mark.parametrize("kind", KINDS)
def test_the_depth_is_cut_by_the_weights_shape_and_summed_in_order(kind: torch.dtype) -> None:
    assert gpu.stretch_length(64, 1100) == 384 and gpu.stretch_length(4096, 4096) == 896
    x, weight = rows(40, 1100, torch.bfloat16), weights(70, 1100, kind)
    together = gpu.matmul(x, weight)
    permuted = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    assert torch.equal(gpu.matmul(x[permuted], weight), together[permuted])
    for row in (0, 31, 32, 39):
        assert torch.equal(gpu.matmul(x[row : row + 1], weight)[0], together[row])
    assert torch.equal(gpu.matmul(x[5:22], weight), together[5:22])


def test_a_workspace_is_left_as_it_was_found() -> None:
    x, weight = rows(5, 1100, torch.float16), weights(70, 1100, torch.int8)
    workspace = gpu.MatmulWorkspace.make(8, 70, 1100, "cpu")
    workspace.partials.fill_(float("nan"))
    first = gpu.matmul(x, weight, workspace=workspace)
    assert not workspace.arrivals.any()
    assert torch.equal(gpu.matmul(x, weight, workspace=workspace), first)
    with pytest.raises(ValueError, match="too small for 40 rows"):
        gpu.matmul(rows(40, 1100, torch.float16), weight, workspace=workspace)


@both
def test_a_nan_row_stays_alone(implementation) -> None:
    x, weight = rows(4, 256, torch.bfloat16), weights(64, 256, torch.int8)
    x[2, 200] = float("nan")
    out = implementation.matmul(x, weight)
    assert out[2].isnan().all() and out[[0, 1, 3]].isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_stored_weights_are_near_the_real_ones(kind: torch.dtype) -> None:
    real = rows(16, 512, torch.float32)
    real[3] = 0
    stored = QuantisedWeight.of(real, kind)
    error = (stored.numbers.float() * stored.scales[:, None] - real).abs()
    step = stored.scales[:, None] if kind == torch.int8 else torch.maximum(real.abs() / 8, stored.scales[:, None] / 64)
    assert (error <= step / 2 * 1.001).all()


@both
def test_wrong_shapes_are_named(implementation) -> None:
    weight = weights(8, 16, torch.int8)
    with pytest.raises(ValueError, match=r"must be \[rows, 16\]"):
        implementation.matmul(rows(2, 15, torch.float16), weight)
    with pytest.raises(ValueError, match="bias is"):
        implementation.matmul(rows(2, 16, torch.float16), weight, bias=torch.ones(7))
    with pytest.raises(ValueError, match="contiguous int8 or fp8"):
        implementation.matmul(rows(2, 16, torch.float16), QuantisedWeight(weight.numbers.float(), weight.scales))
    assert implementation.matmul(rows(0, 16, torch.float16), weight).shape == (0, 8)
