"""Logit bias and penalties, applied in place to the few ids that a request has touched: one tiny launch.

Counts over the whole vocabulary would take 4 bytes per token and request to store and to read in every step, twice what
the logits take. A list of touched ids takes a few per cent of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from topmast_kernels.gpu.arguments import FLOATS, check_logits, check_rows
from topmast_kernels.gpu.common import narrow
from topmast_kernels.gpu.compile_table import Case, meta, name

BIAS_LIMIT = tl.constexpr(100.0)  # of OpenAI's API
_BLOCK = 256


class Touched(NamedTuple):
    """Ids that requests have touched, in any order; a pair (row, id) may stand here only once.

    For a CUDA graph the tensors have a fixed length: entries whose row or id does not exist, as -1, are skipped.
    """

    rows: Tensor  # int32 [n], row of the logits
    ids: Tensor  # int32 [n]
    prompt: Tensor  # bool [n], whether the id is in the request's prompt
    counts: Tensor  # int32 [n], how often it is in the request's output
    bias: Tensor | None = None  # float32 [n], added to the logit; clamped to [-100, 100]


@triton.jit
def _penalties_kernel(
    logits,
    rows,
    ids,
    prompt,
    counts,
    bias,
    repetition,
    frequency,
    presence,
    saved,
    stride,
    entries,
    row_count,
    vocabulary,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + at, mask=at < entries, other=-1)
    token = tl.load(ids + at, mask=at < entries, other=-1)
    known = (row >= 0) & (row < row_count) & (token >= 0) & (token < vocabulary)
    place = logits + row.to(tl.int64) * stride + token
    given = tl.load(place, mask=known, other=0.0)
    if saved is not None:
        tl.store(saved + at, given, mask=known)
    x = given.to(tl.float32)
    count = tl.load(counts + at, mask=known, other=0)
    if bias is not None:
        shift = tl.load(bias + at, mask=known, other=0.0)
        x += tl.minimum(tl.maximum(shift, -BIAS_LIMIT), BIAS_LIMIT)
    if repetition is not None:
        seen = (tl.load(prompt + at, mask=known, other=0) != 0) | (count > 0)
        factor = tl.load(repetition + row, mask=known, other=1.0)
        x = tl.where(seen, tl.where(x > 0.0, tl.div_rn(x, factor), x * factor), x)
    if frequency is not None:
        x -= count.to(tl.float32) * tl.load(frequency + row, mask=known, other=0.0)
    if presence is not None:
        x -= tl.where(count > 0, tl.load(presence + row, mask=known, other=0.0), 0.0)
    tl.store(place, narrow(x, logits.dtype.element_ty), mask=known)


@triton.jit
def _restore_kernel(logits, rows, ids, saved, stride, entries, row_count, vocabulary, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(rows + at, mask=at < entries, other=-1)
    token = tl.load(ids + at, mask=at < entries, other=-1)
    known = (row >= 0) & (row < row_count) & (token >= 0) & (token < vocabulary)
    tl.store(logits + row.to(tl.int64) * stride + token, tl.load(saved + at, mask=known), mask=known)


def penalties(
    logits: Tensor,
    touched: Touched,
    *,
    repetition: Tensor | None = None,
    frequency: Tensor | None = None,
    presence: Tensor | None = None,
    vocabulary: int | None = None,
    saved: Tensor | None = None,
) -> Tensor:
    """Changes the touched logits in place, each in float32 and rounded once, and returns `logits`.

    First the bias is added. Then repetition, over prompt and output: a positive logit is divided by the factor, another
    multiplied. Then over the output alone: frequency times the count is subtracted, and presence where the count is not
    0. logits: float32, float16 or bfloat16 [rows, width], any row stride. repetition (> 0), frequency, presence:
    float32 [rows]; None is off in all rows. saved: like the logits [n]; gets the values from before, for `restore`.
    """
    vocabulary = check_logits(logits, vocabulary)
    for title, tensor in (("repetition", repetition), ("frequency", frequency), ("presence", presence)):
        check_rows(title, tensor, torch.float32, logits)
    entries = _check_touched(logits, touched, saved)
    if entries and len(logits):
        _penalties_kernel[(triton.cdiv(entries, _BLOCK),)](
            *(logits, *touched, repetition, frequency, presence, saved),
            *(logits.stride(0), entries, logits.shape[0], vocabulary),
            BLOCK=_BLOCK,
            enable_fp_fusion=False,
        )
    return logits


def restore(logits: Tensor, touched: Touched, saved: Tensor, *, vocabulary: int | None = None) -> Tensor:
    """Puts back what `penalties` saved, to the bit, and returns `logits`."""
    vocabulary = check_logits(logits, vocabulary)
    entries = _check_touched(logits, touched, saved)
    if entries and len(logits):
        _restore_kernel[(triton.cdiv(entries, _BLOCK),)](
            *(logits, touched.rows, touched.ids, saved, logits.stride(0), entries, logits.shape[0], vocabulary),
            BLOCK=_BLOCK,
        )
    return logits


def _check_touched(logits: Tensor, touched: Touched, saved: Tensor | None) -> int:
    """The number of entries, all of whose tensors have their type and that length."""
    entries = touched.rows.shape[0]
    kinds = (torch.int32, torch.int32, torch.bool, torch.int32, torch.float32, logits.dtype)
    for field, tensor, kind in zip((*Touched._fields, "saved"), (*touched, saved), kinds, strict=True):
        if tensor is not None and (tensor.dtype != kind or tensor.shape != (entries,) or not tensor.is_contiguous()):
            raise ValueError(f"{field} is {tensor.dtype} {list(tensor.shape)}; give contiguous {kind} [{entries}]")
    return entries


def compile_cases() -> Iterator[Case]:
    def touched(bias: bool) -> Touched:
        whole = meta((640,), torch.int32)
        return Touched(whole, whole, meta((640,), torch.bool), whole, meta((640,), torch.float32) if bias else None)

    numbers = meta((8,), torch.float32)
    for dtype in FLOATS:
        logits, saved = meta((8, 128256), dtype), meta((640,), dtype)
        call = partial(penalties, logits, repetition=numbers, frequency=numbers, presence=numbers)
        yield Case(f"all {name(dtype)}", partial(call, touched(True), saved=saved))
        yield Case(f"no bias, nothing saved {name(dtype)}", partial(call, touched(False)))
        yield Case(f"restore {name(dtype)}", partial(restore, logits, touched(False), saved))
