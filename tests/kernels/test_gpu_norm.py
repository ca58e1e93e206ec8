"""Residual addition and RMS norm, in Triton and in torch, against float64."""

from __future__ import annotations

import oracle_small as oracle
import pytest
import torch

from topmast_kernels.gpu import norm as gpu
from topmast_kernels.twin import norm as twin

EPS = 1e-5
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
both = pytest.mark.parametrize("implementation", [gpu, twin], ids=["gpu", "twin"])


def rows(count: int, width: int, dtype: torch.dtype, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, width, generator=generator) * 3).to(dtype)


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 33, pytest.param(576, marks=pytest.mark.old_triton), 2049])
def test_the_sum_is_rounded_and_then_normalised(implementation, dtype: torch.dtype, width: int) -> None:
    x, residual, weight = rows(3, width, dtype), rows(3, width, dtype, 2), rows(1, width, dtype, 3)[0]
    out, total = torch.full_like(x, float("nan")), torch.full_like(x, float("nan"))
    found = implementation.rms_norm(x, weight, eps=EPS, residual=residual, out=out, new_residual=total)
    assert found.out is out and found.residual is total
    assert torch.equal(total, (x.float() + residual.float()).to(dtype))
    oracle.assert_rounded(out, oracle.rms_norm(oracle.wide(total), oracle.wide(weight), EPS))


@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_residual_the_input_is_normalised(implementation, dtype: torch.dtype) -> None:
    x, weight = rows(2, 100, dtype), rows(1, 100, torch.float32, 3)[0]
    found = implementation.rms_norm(x, weight, eps=EPS)
    assert found.residual is x
    oracle.assert_rounded(found.out, oracle.rms_norm(oracle.wide(x), oracle.wide(weight), EPS))


@both
def test_results_may_overwrite_their_sources_and_rows_may_lie_apart(implementation) -> None:
    store = torch.full((2, 5, 200), 7.0)
    x, residual = store[0, :, 8:108], store[1, :, 8:108]
    x.copy_(rows(5, 100, torch.float32))
    residual.copy_(rows(5, 100, torch.float32, 2))
    weight = rows(1, 100, torch.float32, 3)[0]
    expected = implementation.rms_norm(x.clone(), weight, eps=EPS, residual=residual.clone())
    implementation.rms_norm(x, weight, eps=EPS, residual=residual, out=x, new_residual=residual)
    assert torch.equal(x, expected.out) and torch.equal(residual, expected.residual)
    assert (store[:, :, :8] == 7).all() and (store[:, :, 108:] == 7).all()


def test_bits_of_a_row_do_not_depend_on_the_others() -> None:
    x, residual, weight = rows(9, 300, torch.bfloat16), rows(9, 300, torch.bfloat16, 2), rows(1, 300, torch.bfloat16, 3)
    together = gpu.rms_norm(x, weight[0], eps=EPS, residual=residual)
    order = torch.tensor([4, 8, 0, 3, 1, 7, 2, 6, 5])
    permuted = gpu.rms_norm(x[order], weight[0], eps=EPS, residual=residual[order])
    assert torch.equal(permuted.out, together.out[order])
    for row in range(9):
        alone = gpu.rms_norm(x[row : row + 1], weight[0], eps=EPS, residual=residual[row : row + 1])
        assert torch.equal(alone.out[0], together.out[row])
        apart = gpu.rms_norm(together.residual[row : row + 1], weight[0], eps=EPS)  # fused or not: the same bits
        assert torch.equal(apart.out[0], together.out[row])


@both
def test_zeros_large_numbers_and_nan(implementation) -> None:
    x = torch.stack([torch.zeros(64), torch.full((64,), 1e4), rows(1, 64, torch.float32)[0], torch.ones(64)])
    x[2, 63] = float("nan")
    out = implementation.rms_norm(x, torch.ones(64), eps=EPS).out
    assert (out[0] == 0).all()
    oracle.assert_rounded(out[[1, 3]], oracle.rms_norm(oracle.wide(x[[1, 3]]), oracle.wide(torch.ones(64)), EPS))
    assert out[2].isnan().all()


@both
def test_nothing_to_do_and_wrong_shapes(implementation) -> None:
    assert implementation.rms_norm(torch.empty(0, 8), torch.ones(8), eps=EPS).out.shape == (0, 8)
    with pytest.raises(ValueError, match="pass a dense"):
        implementation.rms_norm(torch.ones(2, 8), torch.ones(7), eps=EPS)
    with pytest.raises(ValueError, match="adjacent columns"):
        implementation.rms_norm(torch.ones(8, 2).T, torch.ones(8), eps=EPS)
    with pytest.raises(ValueError, match="without residual"):
        implementation.rms_norm(torch.ones(2, 8), torch.ones(8), eps=EPS, new_residual=torch.ones(2, 8))
