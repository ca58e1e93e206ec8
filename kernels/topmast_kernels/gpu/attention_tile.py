"""What decode and prefill attention have in common on a GPU: one walk over a range of paged keys.

Key tiles start at absolute multiples of KEYS and are walked in order. A tile that a row may not see leaves the row's
bits as they are, so a row's result does not depend on which other rows share its program.
Launch with enable_fp_fusion=False: otherwise ptxas may contract the masked and the unmasked walk differently.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from topmast_kernels.gpu.common import INTERPRET, LN_2, dot, narrow
from topmast_kernels.gpu.compile_table import FP8_CAPABILITY, meta
from topmast_kernels.paged_cache import NARROW, PagedCache


@triton.jit
def widen(x, dtype: tl.constexpr):
    """Cache entries as `dtype`; every int8 and e4m3 number is exact in both bf16 and fp16."""
    if INTERPRET:
        return x.to(tl.float32).to(dtype)
    return x.to(dtype)


@triton.jit
def fetch(pointer, inside, MASKED: tl.constexpr):
    """What `pointer` names; with MASKED, zeros where not `inside`."""
    if MASKED:
        return tl.load(pointer, mask=inside, other=0.0)
    return tl.load(pointer)


@triton.jit
def share(score, best, sharpness):
    """exp(scale * (score - best)) with sharpness = scale * log2(e); 0 for a score of -inf, even where best is -inf.

    Subtracting before scaling keeps the digits of large scores. A NaN stays a NaN whatever `best` made of it.
    """
    return tl.where(score == float("-inf"), 0.0, tl.exp2((score - best) * sharpness))


@triton.jit
def attend(
    q,
    best,
    total,
    acc,
    first,
    end,
    visible,
    table,
    keys,
    key_page,
    key_slot,
    values,
    value_page,
    value_slot,
    key_scales,
    key_scale_page,
    key_scale_slot,
    value_scales,
    value_scale_page,
    value_scale_slot,
    sharpness,
    PAGE: tl.constexpr,
    KEYS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Online softmax of the rows of `q` [ROWS, DIM] over key positions first..end-1 of one sequence and KV head.

    best, total [ROWS], acc [ROWS, DIM]: fp32 state, with the running maximum in unscaled scores. Row r sees positions
    below visible[r]. Without MASKED, end - first is a multiple of KEYS and every row sees all of it.
    """
    dims = tl.arange(0, q.shape[1])
    for start in range(first, end, KEYS):
        at = start + tl.arange(0, KEYS)
        inside = at < end
        page = fetch(table + at // PAGE, inside, MASKED).to(tl.int64)
        slot = at % PAGE
        key_at = keys + (page * key_page + slot * key_slot)[:, None] + dims[None, :]
        value_at = values + (page * value_page + slot * value_slot)[:, None] + dims[None, :]
        # Slots that the sequence does not own may hold NaN, which a weight of 0 would not silence.
        k = fetch(key_at, inside[:, None], MASKED)
        v = fetch(value_at, inside[:, None], MASKED)
        if key_scales is not None:
            k = widen(k, q.dtype)
        scores = dot(q, tl.trans(k), tl.zeros([q.shape[0], KEYS], tl.float32))
        if key_scales is not None:
            key_scale_at = key_scales + page * key_scale_page + slot * key_scale_slot
            key_scale = fetch(key_scale_at, inside, MASKED)
            scores = scores * key_scale[None, :]
        if MASKED:
            scores = tl.where(at[None, :] < visible[:, None], scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        weights = share(scores, higher[:, None], sharpness)
        shrink = share(best, higher, sharpness)
        total = total * shrink + tl.sum(weights, 1)
        if value_scales is not None:
            value_scale_at = value_scales + page * value_scale_page + slot * value_scale_slot
            value_scale = fetch(value_scale_at, inside, MASKED)
            # bf16 whatever the query is: a small scale would push fp16 weights into denormals.
            v = widen(v, tl.bfloat16)
            weights = weights * value_scale[None, :]
        acc = dot(narrow(weights, v.dtype), v, acc * shrink[:, None])
        best = higher
    return best, total, acc


@triton.jit
def finish(best, total, acc, sharpness):
    """The rows' normalised output [ROWS, DIM] and natural-log LSE [ROWS]; 0 and -inf where nothing was seen."""
    empty = total == 0.0
    divisor = tl.where(empty, 1.0, total)
    lse = (best * sharpness + tl.log2(divisor)) * LN_2
    return acc / divisor[:, None], tl.where(empty, float("-inf"), lse)


def meta_cache(dtype: torch.dtype, page: int, kv_heads: int, dim: int) -> PagedCache:
    """A cache without memory for the table of compiled configurations."""
    shape = (1024, page, kv_heads, dim)
    scales = meta(shape[:3], torch.float32) if dtype in NARROW else None
    return PagedCache(meta(shape, dtype), meta(shape, dtype), scales, scales)


def capability() -> int:
    """Of the current GPU: 90 for an H100 or H200; and in the interpreter, which has none."""
    return 90 if INTERPRET.value else int(triton.runtime.driver.active.get_current_target().arch)


def least_capability(dtype: torch.dtype) -> int:
    return FP8_CAPABILITY if dtype == torch.float8_e4m3fn else 80
