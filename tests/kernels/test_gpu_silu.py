"""silu(gate) * up, in Triton and in torch, against float64."""

from __future__ import annotations

import oracle_small as oracle
import pytest
import torch

from topmast_kernels.gpu import silu as gpu
from topmast_kernels.twin import silu as twin

both = pytest.mark.parametrize("implementation", [gpu, twin], ids=["gpu", "twin"])


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 7, 1536, pytest.param(2050, marks=pytest.mark.old_triton)])
def test_the_gate_opens_as_in_float64(implementation, dtype: torch.dtype, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    store = (torch.randn(4, 2 * width + 5, generator=generator) * 4).to(dtype)
    gate_up = store[:, 3 : 3 + 2 * width]
    out = torch.full((4, width), float("nan"), dtype=dtype)
    assert implementation.silu_mul(gate_up, out=out) is out
    gate, up = oracle.wide(gate_up[:, :width]), oracle.wide(gate_up[:, width:])
    oracle.assert_rounded(out, oracle.silu_mul(gate, up))
    assert torch.equal(implementation.silu_mul(gate_up[1:2]), out[1:2])


@both
@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # NumPy; a GPU says nothing
def test_far_gates_are_shut_or_wide_open(implementation) -> None:
    gate = torch.tensor([[-1e4, -200.0, -90.0, 90.0, 1e4, 0.0, float("nan")]])
    out = implementation.silu_mul(torch.cat([gate, torch.full_like(gate, 2.0)], dim=1))[0]
    assert out[:3].abs().max() < 1e-30
    assert out[3:6].tolist() == [180.0, 2e4, 0.0]
    assert out[6].isnan()


@both
def test_wrong_shapes_are_named(implementation) -> None:
    assert implementation.silu_mul(torch.empty(0, 8)).shape == (0, 4)
    with pytest.raises(ValueError, match="even number"):
        implementation.silu_mul(torch.ones(2, 7))
    with pytest.raises(ValueError, match=r"must be \(2, 4\)"):
        implementation.silu_mul(torch.ones(2, 8), out=torch.ones(2, 8))
