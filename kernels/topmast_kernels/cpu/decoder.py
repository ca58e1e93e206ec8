"""The whole forward pass of a Llama decoder in one compiled call: any mix of single rows and spans of prompts.

At one row a layer takes 0.2 ms; thirty layers of separate Python and torch calls would cost more than the arithmetic.
Twin: models/eager.py, layer by layer in torch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.attention import attend, plan_tasks, store_kv
from topmast_kernels.cpu.jit import kernel
from topmast_kernels.cpu.layout import COUNT, LINE, ROW, START, Layout, Paged
from topmast_kernels.cpu.linear import linear
from topmast_kernels.cpu.rows import add_norm, silu_multiply


class Weights(NamedTuple):
    """Matrix tables as linear.py makes them, [layers, matrices, 5], and what else a model has learnt."""

    attention_in: NDArray[np.int64]
    attention_out: NDArray[np.int64]
    mlp_in: NDArray[np.int64]
    mlp_out: NDArray[np.int64]
    head: NDArray[np.int64]  # [matrices, 5]
    norms: NDArray[np.float32]  # [layers, 2, H]
    final_norm: NDArray[np.float32]  # [H]
    epsilon: NDArray[np.float32]  # [1]


class Scratch(NamedTuple):
    """What lies between two steps of a layer, [at least M, width]."""

    normed: NDArray[np.float32]
    added: NDArray[np.float32]
    qkv: NDArray[np.float32]
    attended: NDArray[np.float32]
    gate_up: NDArray[np.float32]
    gated: NDArray[np.float32]


def new_scratch(rows: int, hidden: int, layout: Layout, mlp: int) -> Scratch:
    """For steps of up to `rows` rows."""
    inner = layout.heads * layout.head_size
    widths = (hidden, hidden, inner + 2 * layout.kv_heads * layout.head_size, inner, 2 * mlp, mlp)
    return Scratch(*(np.empty((rows, width), np.float32) for width in widths))


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
        for i in range(values.shape[1]):
            values[n, i] = values[rows[n], i]
    return values[: len(rows)]


@kernel()
def forward(
    x: NDArray[np.float32],
    sampled: NDArray[np.int64],
    weights: Weights,
    paged: Paged,
    layout: Layout,
    exact: bool,
    threads: int,
    scratch: Scratch,
    logits: NDArray[np.float32],
) -> None:
    """logits [sampled, vocabulary] of the rows `sampled` (ascending); keys and values of all rows go to the cache.

    x [M, H]: the embedded tokens, overwritten. exact: see linear.py.
    """
    rows, last = x.shape[0], len(weights.attention_in) - 1
    normed, added, qkv = scratch.normed[:rows], scratch.added[:rows], scratch.qkv[:rows]
    attended, gate_up, gated = scratch.attended[:rows], scratch.gate_up[:rows], scratch.gated[:rows]
    counters, tasks = np.zeros((last + 1, 1), np.int64), plan_tasks(paged, layout, threads)
    add_norm(x, added, False, weights.norms[0, 0], weights.epsilon, normed)
    for layer in range(last + 1):
        linear(normed, weights.attention_in[layer], exact, threads, qkv)
        fewer = layer == last and len(sampled) < rows  # of the other rows only their keys and values are needed
        store_kv(qkv, paged, layout, layer, fewer)
        if fewer:
            rows = len(sampled)
            if rows == 0:
                return
            x, qkv = _keep_rows(x, sampled), _keep_rows(qkv, sampled)
            normed, added, attended = normed[:rows], added[:rows], attended[:rows]
            gate_up, gated = gate_up[:rows], gated[:rows]
            spans = _lone_spans(paged.spans, sampled)
            paged = Paged(spans, paged.tables, paged.cosines, paged.sines, paged.cache)
            tasks = plan_tasks(paged, layout, threads)
        attend(tasks, counters[layer], qkv, paged, layout, layer, threads, attended)
        linear(attended, weights.attention_out[layer], exact, threads, added)
        add_norm(x, added, True, weights.norms[layer, 1], weights.epsilon, normed)
        linear(normed, weights.mlp_in[layer], exact, threads, gate_up)
        silu_multiply(gate_up, gated)
        linear(gated, weights.mlp_out[layer], exact, threads, added)
        next_norm = weights.norms[layer + 1, 0] if layer < last else weights.final_norm
        add_norm(x, added, True, next_norm, weights.epsilon, normed)
    linear(normed, weights.head, exact, threads, logits)
