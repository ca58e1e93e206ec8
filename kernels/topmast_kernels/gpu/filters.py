"""What a row's top-k, top-p and min-p ask for, read in the same way by every launch of the filtered sampler."""

from __future__ import annotations

import triton
import triton.language as tl

# How a row's token is found after the first launch.
DONE = tl.constexpr(0)  # greedy, without filters, or nothing allowed: the first launch wrote the token
TOP_K = tl.constexpr(1)  # top-k, with or without others: few candidates, one program finishes them
NUCLEUS = tl.constexpr(2)  # top-p without top-k: any number of tokens, so all programs draw
FLOOR = tl.constexpr(3)  # min-p alone: a comparison with the maximum is all that it needs


@triton.jit
def row_filters(top_k, top_p, min_p, row, vocabulary):
    """(k, p, floor in bits below the maximum) of a row; 0, 1.0 and -inf where a filter is off. None is off in all rows.

    A token passes min-p if its `scaled_gap` is not below the floor. NaN turns a filter off.
    """
    k = tl.zeros((), tl.int32)
    p = tl.full((), 1.0, tl.float32)
    floor = tl.full((), float("-inf"), tl.float32)
    if top_k is not None:
        k = tl.load(top_k + row)
        k = tl.where((k > 0) & (k < vocabulary), k, 0)
    if top_p is not None:
        p = tl.load(top_p + row)
        p = tl.where(p < 1.0, p, 1.0)
    if min_p is not None:
        share = tl.load(min_p + row)
        some = share > 0.0
        floor = tl.where(some, tl.log2(tl.where(some, tl.minimum(share, 1.0), 1.0)), float("-inf"))
    return k, p, floor


@triton.jit
def row_kind(k, p, floor):
    """How a row is sampled that has something to sample and is not greedy."""
    return tl.where(k > 0, TOP_K, tl.where(p < 1.0, NUCLEUS, tl.where(floor > float("-inf"), FLOOR, DONE)))
