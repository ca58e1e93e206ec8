"""Checks of what callers pass, in sentences that say what to do. Only shapes, types and strides: nothing waits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_logits(logits: Tensor, vocabulary: int | None) -> int:
    """The number of valid tokens per row of [rows, width] `logits`; the rest of the width is padding."""
    if logits.ndim != 2 or logits.dtype not in FLOATS:
        raise ValueError(f"logits are {logits.dtype} {list(logits.shape)}; give float32, float16 or bfloat16 [rows, V]")
    if logits.shape[1] > 1 and logits.stride(1) != 1:
        raise ValueError(f"the tokens of a row lie {logits.stride(1)} apart; call .contiguous() on the logits first")
    width = logits.shape[1]
    vocabulary = width if vocabulary is None else vocabulary
    if not 1 <= vocabulary <= width:
        raise ValueError(f"vocabulary={vocabulary} does not fit rows of {width} logits; give 1 to {width}, or None")
    return vocabulary


def check_rows(name: str, tensor: Tensor | None, dtype: torch.dtype, logits: Tensor) -> None:
    """`tensor`, if any, has one contiguous `dtype` number per row of `logits`, on the same device."""
    if tensor is None:
        return
    wanted = (logits.shape[0],)
    if tensor.dtype != dtype or tensor.shape != wanted or not tensor.is_contiguous() or tensor.device != logits.device:
        raise ValueError(
            f"{name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}; "
            f"give contiguous {dtype} {list(wanted)} on {logits.device}"
        )


def check_allowed(allowed: Tensor | None, logits: Tensor) -> tuple[int, int]:
    """(words per row, row stride) of the bit mask of allowed tokens; (0, 0) for None."""
    if allowed is None:
        return 0, 0
    if allowed.dtype != torch.int32 or allowed.ndim != 2 or allowed.shape[0] != logits.shape[0]:
        raise ValueError(
            f"allowed is {allowed.dtype} {list(allowed.shape)}; "
            f"give int32 [{logits.shape[0]}, words] with one bit per token"
        )
    if allowed.shape[1] > 1 and allowed.stride(1) != 1:
        raise ValueError("the words of a row of `allowed` do not lie side by side; call .contiguous() on it first")
    return allowed.shape[1], allowed.stride(0)


def check_fallback(fallback: int, vocabulary: int) -> None:
    """The token for rows in which nothing is allowed exists."""
    if not 0 <= fallback < vocabulary:
        raise ValueError(f"fallback={fallback} is no token of {vocabulary}; give the end-of-sequence token's id")


def check_out(out: Iterable[Tensor], rows: int) -> None:
    """Every output has a contiguous entry per row."""
    for tensor in out:
        if tensor.shape[0] != rows or not tensor.is_contiguous():
            raise ValueError(f"an output is {list(tensor.shape)}; give contiguous ones of {rows} rows, or out=None")
