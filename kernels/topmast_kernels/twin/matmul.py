"""Products with weights stored as int8 or fp8 in plain torch; and how weights are stored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from topmast_kernels.twin.rope import quantise


@dataclass(frozen=True)
class QuantisedWeight:
    """numbers: int8 or fp8 e4m3 [outputs, depth], contiguous. scales: fp32 [outputs]. weight = numbers * scales."""

    numbers: Tensor
    scales: Tensor

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> QuantisedWeight:
        """`weight` [outputs, depth], each output by a scale: its largest magnitude / 127 (int8) or 448 (fp8)."""
        numbers, scales = quantise(weight.float(), dtype)
        return cls(numbers.contiguous(), scales)


def matmul(x: Tensor, weight: QuantisedWeight, *, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """As `topmast_kernels.gpu.matmul.matmul`, and for fp32 `x` too."""
    check_matmul(x, weight, bias, out)
    product = x.float() @ weight.numbers.float().T * weight.scales
    if bias is not None:
        product += bias.float()
    return product.to(x.dtype) if out is None else out.copy_(product)


def check_matmul(x: Tensor, weight: QuantisedWeight, bias: Tensor | None, out: Tensor | None) -> None:
    """ValueError unless the shapes fit."""
    outputs, depth = weight.numbers.shape
    if weight.numbers.dtype not in (torch.int8, torch.float8_e4m3fn) or not weight.numbers.is_contiguous():
        raise ValueError(
            f"weights are {weight.numbers.dtype}; they must be contiguous int8 or fp8 (QuantisedWeight.of)"
        )
    if x.ndim != 2 or x.shape[1] != depth or x.stride(1) != 1:
        raise ValueError(f"x is {tuple(x.shape)}; it must be [rows, {depth}] with adjacent columns")
    for label, tensor in (("scales", weight.scales), ("bias", bias)):
        if tensor is not None and (tensor.shape != (outputs,) or not tensor.is_contiguous()):
            raise ValueError(f"{label} is {tuple(tensor.shape)}; it must be contiguous [{outputs}]")
    if out is not None and (out.shape != (x.shape[0], outputs) or out.stride(1) != 1):
        raise ValueError(f"out is {tuple(out.shape)}; it must be {(x.shape[0], outputs)} with adjacent columns")
