"""The rounding that every GPU kernel's result goes through."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from topmast_kernels.gpu.common import narrow

pytestmark = pytest.mark.old_triton


@triton.jit
def _copy(source, target, count, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    inside = at < count
    tl.store(target + at, narrow(tl.load(source + at, mask=inside), target.dtype.element_ty), mask=inside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounding_is_torchs(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    bits = torch.randint(-(2**31), 2**31 - 1, (4096,), dtype=torch.int32)
    halves = torch.arange(0x3F80_8000, 0x3F80_8000 + 64 * 0x10000, 0x10000, dtype=torch.int32)  # exact ties
    source = torch.cat([bits, halves]).view(torch.float32)
    source[source.abs() < 2.0**-126] = 0.0  # a GPU flushes denormals, the interpreter stores them wrongly as bf16
    target = torch.empty_like(source, dtype=dtype)
    _copy[(1,)](source, target, source.numel(), BLOCK=triton.next_power_of_2(source.numel()))
    assert torch.equal(target.nan_to_num(nan=7.0), source.to(dtype).nan_to_num(nan=7.0))
    assert torch.equal(target.isnan(), source.isnan())
