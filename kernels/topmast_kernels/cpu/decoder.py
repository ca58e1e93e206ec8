"""All layers of a Llama decoder over a few rows, in one compiled call.

At one row a layer takes 0.3 ms; thirty layers of separate Python and torch calls would cost more than the arithmetic.
Twin: models/llama.py's eager forward, layer by layer.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.attention import paged_attention, store_kv
from topmast_kernels.cpu.jit import kernel
from topmast_kernels.cpu.linear import linear


@kernel()
def rms_norm(x: NDArray[np.float32], weight: NDArray[np.float32], epsilon: float, out: NDArray[np.float32]) -> None:
    """out [M, H] = x / sqrt(mean(x^2) + epsilon) * weight, row by row."""
    for row in range(x.shape[0]):
        total = np.float32(0.0)
        for i in range(x.shape[1]):
            total += x[row, i] * x[row, i]
        factor = np.float32(1.0) / np.sqrt(total / np.float32(x.shape[1]) + np.float32(epsilon))
        for i in range(x.shape[1]):
            out[row, i] = x[row, i] * factor * weight[i]


@kernel()
def rope(
    x: NDArray[np.float32],
    cosines: NDArray[np.float32],
    sines: NDArray[np.float32],
    positions: NDArray[np.int64],
    interleaved: bool,
) -> None:
    """Rotate x [M, heads, D] in place; pairs are (2i, 2i+1) when interleaved (GGUF's llama), else (i, i + D/2)."""
    half = x.shape[2] // 2
    for row in range(x.shape[0]):
        at = positions[row]
        for head in range(x.shape[1]):
            for i in range(half):
                first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
                a, b = x[row, head, first], x[row, head, second]
                x[row, head, first] = a * cosines[at, i] - b * sines[at, i]
                x[row, head, second] = b * cosines[at, i] + a * sines[at, i]


@kernel(parallel=True)
def silu_multiply(gate_up: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """out [M, F] = silu(gate) * up, with gate_up [M, 2F] = gate, up."""
    width = out.shape[1]
    chunk = 256  # a piece of parallel work
    for piece in numba.prange((out.size + chunk - 1) // chunk):
        for i in range(piece * chunk, min((piece + 1) * chunk, out.size)):
            row, column = i // width, i % width
            gate = gate_up[row, column]
            out[row, column] = gate / (np.float32(1.0) + np.exp(-gate)) * gate_up[row, width + column]


@kernel()
def forward_rows(
    x: NDArray[np.float32],
    positions: NDArray[np.int64],
    tables: NDArray[np.int32],
    cache: NDArray[np.float32],
    attention_in: NDArray[np.int64],
    attention_out: NDArray[np.int64],
    mlp_in: NDArray[np.int64],
    mlp_out: NDArray[np.int64],
    norms: NDArray[np.float32],
    cosines: NDArray[np.float32],
    sines: NDArray[np.float32],
    epsilon: float,
    interleaved: bool,
    heads: int,
    width: int,
) -> None:
    """Run x [M, H] through all layers in place, writing each row's key and value to `cache`.

    cache [layers, 2, blocks, kv_heads, block_size, D]; matrix tables [layers, matrices, 5] as linear.py makes them;
    norms [layers, 2, H]; heads: query heads; width: the MLP's. Rows of one sequence come in order of position.
    """
    rows, hidden = x.shape
    kv_heads, size = cache.shape[3], cache.shape[5]
    normed = np.empty((rows, hidden), np.float32)
    qkv = np.empty((rows, heads + 2 * kv_heads, size), np.float32)
    query = np.empty((rows, heads, size), np.float32)
    attended = np.empty((rows, heads, size), np.float32)
    added = np.empty((rows, hidden), np.float32)
    gate_up = np.empty((rows, 2 * width), np.float32)
    gated = np.empty((rows, width), np.float32)
    for layer in range(cache.shape[0]):
        rms_norm(x, norms[layer, 0], epsilon, normed)
        linear(normed, attention_in[layer], qkv.reshape(rows, -1))
        rope(qkv[:, : heads + kv_heads], cosines, sines, positions, interleaved)
        store_kv(qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :], cache[layer], tables, positions)
        query[:] = qkv[:, :heads]
        paged_attention(query, cache[layer], tables, positions, attended)
        linear(attended.reshape(rows, -1), attention_out[layer], added)
        x += added
        rms_norm(x, norms[layer, 1], epsilon, normed)
        linear(normed, mlp_in[layer], gate_up)
        silu_multiply(gate_up, gated)
        linear(gated, mlp_out[layer], added)
        x += added
