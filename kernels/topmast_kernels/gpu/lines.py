"""Reading a row by lines of 64 tokens: what is no logit (padding, forbidden, NaN) becomes -inf here, once for all."""

from __future__ import annotations

import triton
import triton.language as tl

from topmast_kernels import partition

LINE = tl.constexpr(partition.LINE)


@triton.jit
def row_of(tensor, row, stride):
    """Pointer to row `row` of a tensor with that row stride in elements; 64-bit, for rows past 2**31."""
    return tensor + tl.cast(row, tl.int64) * stride


@triton.jit
def block_lines(block, blocks, LINES: tl.constexpr):
    """int32 [LINES]: the lines of block `block` of `blocks`."""
    return block + tl.arange(0, LINES) * blocks


@triton.jit
def load_lines(logits, allowed, lines, vocabulary, width, words):
    """(tokens int32, logits fp32, whether NaN), each [lines, 64], of one row.

    `logits` and `allowed` point to the row. Tokens from `vocabulary` on are padding and may hold anything; loads are
    bounded by `width`, the row's readable tokens, which is the rounder number of the two and keeps loads wide.
    `allowed`: None, or `words` int32 with a bit for each token, lowest first; tokens beyond them are forbidden.
    """
    column = tl.arange(0, LINE)
    tokens = lines[:, None] * LINE + column[None, :]
    x = tl.load(logits + tokens, mask=tokens < width, other=float("-inf")).to(tl.float32)
    nan = (x != x) & (tokens < vocabulary)
    real = (x == x) & (tokens < vocabulary)
    if allowed is not None:
        low = tl.load(allowed + 2 * lines, mask=2 * lines < words, other=0)
        high = tl.load(allowed + 2 * lines + 1, mask=2 * lines + 1 < words, other=0)
        word = tl.where(column[None, :] < 32, low[:, None], high[:, None])
        real = real & (((word >> (column & 31)[None, :]) & 1) != 0)
    return tokens, tl.where(real, x, float("-inf")), nan


@triton.jit
def load_tokens(logits, allowed, tokens, vocabulary, words):
    """Logits fp32 of int32 `tokens` >= 0 of any shape, wherever in the row; -inf for what is -inf in `load_lines`."""
    x = tl.load(logits + tokens, mask=tokens < vocabulary, other=float("-inf")).to(tl.float32)
    real = x == x
    if allowed is not None:
        word = tl.load(allowed + (tokens >> 5), mask=(tokens >> 5) < words, other=0)
        real = real & (((word >> (tokens & 31)) & 1) != 0)
    return tl.where(real, x, float("-inf"))
