"""silu(gate) * up in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def silu_mul(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    """As `topmast_kernels.gpu.silu.silu_mul`."""
    check_silu(gate_up, out)
    gate, up = gate_up.float().chunk(2, dim=1)
    value = (torch.nn.functional.silu(gate) * up).to(gate_up.dtype if out is None else out.dtype)
    return value if out is None else out.copy_(value)


def check_silu(gate_up: Tensor, out: Tensor | None) -> None:
    """ValueError unless the shapes fit."""
    rows, both = gate_up.shape
    if both % 2 or gate_up.stride(1) != 1:
        raise ValueError(f"gate_up is {tuple(gate_up.shape)}; it needs an even number of adjacent columns, gate first")
    if out is not None and (out.shape != (rows, both // 2) or out.stride(1) != 1):
        raise ValueError(f"out is {tuple(out.shape)}; it must be {(rows, both // 2)} with adjacent columns")
