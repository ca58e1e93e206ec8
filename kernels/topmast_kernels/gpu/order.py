"""The one order of tokens: value descending, then id ascending. Also as 64-bit keys, where it is that of integers."""

from __future__ import annotations

import triton
import triton.language as tl

NO_ID = tl.constexpr(0x7FFFFFFF)  # greater than any token's id
NO_KEY = tl.constexpr(-0x8000000000000000)  # less than any token's key


@triton.jit
def first_best(value, ids):
    """(greatest value, lowest id that has it) of a tile without NaN; int32 ids of the same shape."""
    best = tl.max(value)
    return best, tl.min(tl.where(value == best, ids, NO_ID))


@triton.jit
def pack(value, ids):
    """int64 key of fp32 `value` (no NaN) and int32 `ids` >= 0: the greater key comes first in the order."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)  # -0.0 equals 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (-ids + NO_ID).to(tl.int64)


@triton.jit
def unpack_value(key):
    """fp32 value of a key."""
    ordered = (key >> 32).to(tl.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def unpack_id(key):
    """int32 id of a key."""
    return -(key & 0x7FFFFFFF).to(tl.int32) + NO_ID
