"""Residual addition and RMS norm in plain torch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Normed(NamedTuple):
    """out: the normalised rows. residual: the sum that was normalised (the input itself when nothing was added)."""

    out: Tensor
    residual: Tensor


def rms_norm(
    x: Tensor,
    weight: Tensor,
    *,
    eps: float,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    new_residual: Tensor | None = None,
) -> Normed:
    """As `topmast_kernels.gpu.norm.rms_norm`."""
    check_norm(x, weight, residual, out, new_residual)
    total = x if residual is None else (x.float() + residual.float()).to(residual.dtype)
    wide = total.float()
    normed = (wide * (wide.square().mean(dim=1, keepdim=True) + eps).rsqrt() * weight.float()).to(x.dtype)
    if new_residual is not None:
        total = new_residual.copy_(total)
    return Normed(normed if out is None else out.copy_(normed), total)


def check_norm(
    x: Tensor, weight: Tensor, residual: Tensor | None, out: Tensor | None, new_residual: Tensor | None
) -> None:
    """ValueError unless the shapes fit."""
    width = x.shape[1]
    if weight.shape != (width,) or weight.stride(0) != 1:
        raise ValueError(f"weight is {tuple(weight.shape)} but rows have {width} values; pass a dense [{width}]")
    if residual is None and new_residual is not None:
        raise ValueError("new_residual was given without residual; leave it out or pass what is to be added")
    for label, tensor in (("x", x), ("residual", residual), ("out", out), ("new_residual", new_residual)):
        if tensor is not None and (tensor.shape != x.shape or tensor.stride(1) != 1):
            raise ValueError(f"{label} is {tuple(tensor.shape)}; it must be {tuple(x.shape)} with adjacent columns")
