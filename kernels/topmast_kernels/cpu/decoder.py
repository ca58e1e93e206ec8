"""The whole forward pass of a Llama decoder in one compiled call: any mix of single rows and spans of prompts.

At one row a layer takes 0.2 ms; thirty layers of separate Python and torch calls would cost more than the arithmetic.
Twin: models/eager.py, layer by layer in torch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.attention import COUNT, LINE, ROW, START, attend, plan_tasks, store_kv
from topmast_kernels.cpu.jit import kernel
from topmast_kernels.cpu.layout import Layout
from topmast_kernels.cpu.linear import linear
from topmast_kernels.cpu.linear_bf16 import linear_bf16
from topmast_kernels.cpu.rows import add_norm, silu_multiply


class Weights(NamedTuple):
    """Matrix tables as linear.py makes them, [layers, matrices, 5]; norms [layers, 2, H]; angles [positions, D / 2]."""

    attention_in: NDArray[np.int64]
    attention_out: NDArray[np.int64]
    mlp_in: NDArray[np.int64]
    mlp_out: NDArray[np.int64]
    head: NDArray[np.int64]  # [matrices, 5]
    norms: NDArray[np.float32]
    final_norm: NDArray[np.float32]
    cosines: NDArray[np.float32]
    sines: NDArray[np.float32]
    epsilon: float
    mlp: int  # width


def scratch_values(rows: int, hidden: int, layout: Layout, mlp: int) -> int:
    """float32 values that `forward` needs beside its arguments for so many rows."""
    qkv, heads = (layout.heads + 2 * layout.kv_heads) * layout.head_size, layout.heads * layout.head_size
    return rows * (2 * hidden + qkv + heads + 3 * mlp)


@kernel()
def _multiply(x: NDArray[np.float32], table: NDArray[np.int64], bf16_rows: int, out: NDArray[np.float32]) -> None:
    if 0 < bf16_rows <= x.shape[0]:
        linear_bf16(x, table, out)
    else:
        linear(x, table, out)


@kernel()
def _lone_spans(spans: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The spans of only `rows` (ascending), which then lie one after another."""
    lone = np.empty((len(rows), 4), np.int64)
    s = 0
    for n in range(len(rows)):
        while rows[n] >= spans[s, ROW] + spans[s, COUNT]:
            s += 1
        lone[n, ROW], lone[n, COUNT], lone[n, LINE] = n, 1, spans[s, LINE]
        lone[n, START] = spans[s, START] + rows[n] - spans[s, ROW]
    return lone


@kernel()
def _keep_rows(values: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Only `rows` (ascending), moved to the front."""
    for n in range(len(rows)):
        if n != rows[n]:
            values[n] = values[rows[n]]
    return values[: len(rows)]


@kernel()
def _piece(scratch: NDArray[np.float32], first: int, rows: int, width: int) -> NDArray[np.float32]:
    return scratch[first : first + rows * width].reshape(rows, width)


@kernel()
def forward(
    x: NDArray[np.float32],
    spans: NDArray[np.int64],
    tables: NDArray[np.int32],
    sampled: NDArray[np.int64],
    weights: Weights,
    layout: Layout,
    cache: NDArray[np.uint8],
    bf16_rows: int,
    threads: int,
    scratch: NDArray[np.float32],
    logits: NDArray[np.float32],
) -> None:
    """logits [sampled, vocabulary] of the rows `sampled` (ascending); keys and values of all rows go to `cache`.

    x [M, H]: the embedded tokens, overwritten. spans [S, 4] in row order, covering all rows; tables int32 [lines, n] of
    block ids; cache uint8 [blocks, bytes of a block]. From `bf16_rows` rows on matrices are multiplied in bfloat16 (0:
    never). scratch: float32, see `scratch_values`.
    """
    rows, hidden = x.shape
    width, inner, mlp = (
        (layout.heads + 2 * layout.kv_heads) * layout.head_size,
        layout.heads * layout.head_size,
        weights.mlp,
    )
    last = len(weights.attention_in) - 1
    normed, added = _piece(scratch, 0, rows, hidden), _piece(scratch, rows * hidden, rows, hidden)
    first = 2 * rows * hidden
    qkv, attended = _piece(scratch, first, rows, width), _piece(scratch, first + rows * width, rows, inner)
    first += rows * (width + inner)
    gate_up, gated = _piece(scratch, first, rows, 2 * mlp), _piece(scratch, first + 2 * rows * mlp, rows, mlp)
    counters, tasks = np.zeros((last + 1, 1), np.int64), plan_tasks(spans, layout, threads)
    add_norm(x, x, False, weights.norms[0, 0], weights.epsilon, normed)
    for layer in range(last + 1):
        _multiply(normed, weights.attention_in[layer], bf16_rows, qkv)
        store_kv(qkv, spans, tables, layout, weights.cosines, weights.sines, cache, layer)
        if layer == last and len(sampled) < rows:  # the other rows' keys and values were all that is needed of them
            rows = len(sampled)
            if rows == 0:
                return
            x, qkv, spans = _keep_rows(x, sampled), _keep_rows(qkv, sampled), _lone_spans(spans, sampled)
            normed, added, attended, gate_up, gated = (
                *(normed[:rows], added[:rows], attended[:rows]),
                *(gate_up[:rows], gated[:rows]),
            )
            tasks = plan_tasks(spans, layout, threads)
        attend(
            *(tasks, counters[layer], qkv, spans, tables, layout, weights.cosines, weights.sines),
            *(cache, layer, threads, attended),
        )
        _multiply(attended, weights.attention_out[layer], bf16_rows, added)
        add_norm(x, added, True, weights.norms[layer, 1], weights.epsilon, normed)
        _multiply(normed, weights.mlp_in[layer], bf16_rows, gate_up)
        silu_multiply(gate_up, gated)
        _multiply(gated, weights.mlp_out[layer], bf16_rows, added)
        next_norm = weights.norms[layer + 1, 0] if layer < last else weights.final_norm
        add_norm(x, added, True, next_norm, weights.epsilon, normed)
    _multiply(normed, weights.head, bf16_rows, logits)
