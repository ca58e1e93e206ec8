"""Linear layers on weights as they lie in the model file: exact, in float32, for any number of rows.

Equals the product with the dequantised weights up to the order of summation, which is fixed: an output's bits do not
depend on how many rows are computed together. The twin is `formats.dequantise` and a matmul.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu import vector
from topmast_kernels.cpu.formats import BLOCK, Format, row_bytes
from topmast_kernels.cpu.jit import BATCH_TILE, ROW_TILE, kernel

GROUP = 16  # weight rows per piece of parallel work; every matrix has at least as many
ADDRESS, FORMAT, ROWS, ROW_BYTES, FIRST = range(5)  # columns of a matrix table
_F32, _Q4_0, _Q4_1, _Q8_0 = (int(kind) for kind in (Format.F32, Format.Q4_0, Format.Q4_1, Format.Q8_0))
_tile_full = vector.make_tile(BATCH_TILE)
_tile_one = vector.make_tile(1)
_dot_f32, _dot_q4_0, _dot_q4_1, _dot_q8_0 = vector.dot_f32, vector.dot_q4_0, vector.dot_q4_1, vector.dot_q8_0
_decode_q4_0, _decode_q4_1, _decode_q8_0 = vector.decode_q4_0, vector.decode_q4_1, vector.decode_q8_0


def matrix_table(matrices: list[tuple[int, Format, int]], columns: int) -> NDArray[np.int64]:
    """Matrices (address, format, rows) that share one input, as the kernels want them: outputs lie side by side."""
    table = np.zeros((len(matrices), 5), np.int64)
    first = 0
    for line, (address, kind, rows) in zip(table, matrices, strict=True):
        line[:] = address, int(kind), rows, row_bytes(kind, columns), first
        first += rows
    return table


def supported(rows: int, columns: int) -> bool:
    """Whether these kernels take a matrix of this shape."""
    return rows >= GROUP and columns % BLOCK == 0


@kernel()
def _one_row(weights: int, kind: int, stride: int, x: int, out: int, columns: int) -> None:
    for tile in range(GROUP // ROW_TILE):
        address, target = weights + tile * ROW_TILE * stride, out + tile * ROW_TILE * 4
        if kind == _Q4_1:
            _dot_q4_1(address, stride, x, target, columns)
        elif kind == _Q8_0:
            _dot_q8_0(address, stride, x, target, columns)
        elif kind == _Q4_0:
            _dot_q4_0(address, stride, x, target, columns)
        else:
            _dot_f32(address, stride, x, target, columns)


@kernel()
def _decode(weights: int, kind: int, out: int, blocks: int) -> None:
    if kind == _Q4_1:
        _decode_q4_1(weights, out, blocks)
    elif kind == _Q8_0:
        _decode_q8_0(weights, out, blocks)
    else:
        _decode_q4_0(weights, out, blocks)


@kernel()
def _groups(matrix: NDArray[np.int64]) -> int:
    return int((matrix[ROWS] + GROUP - 1) // GROUP)


@kernel()
def _compute_group(g: int, x: NDArray[np.float32], table: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """GROUP rows of one matrix, for all rows of x."""
    batch, columns = x.shape
    width = out.shape[1]
    s = 0
    while g >= _groups(table[s]):
        g -= _groups(table[s])
        s += 1
    kind, stride = table[s, FORMAT], table[s, ROW_BYTES]
    # The last group of a matrix starts early rather than being short; it writes equal values twice.
    row = min(g * GROUP, table[s, ROWS] - GROUP)
    weights = table[s, ADDRESS] + row * stride
    target = out.ctypes.data + (table[s, FIRST] + row) * 4
    inputs = x.ctypes.data
    if batch == 1:
        _one_row(weights, kind, stride, inputs, target, columns)
        return
    scratch = np.empty(GROUP * columns if kind != _F32 else 1, np.float32)
    if kind != _F32:
        _decode(weights, kind, scratch.ctypes.data, GROUP * columns // BLOCK)
        weights = scratch.ctypes.data
    full = batch // BATCH_TILE * BATCH_TILE
    for m in range(0, full, BATCH_TILE):
        for tile in range(0, GROUP, ROW_TILE):
            w, t = weights + tile * columns * 4, target + tile * 4
            _tile_full(w, inputs + m * columns * 4, columns, t + m * width * 4, width, columns)
    for m in range(full, batch):
        for tile in range(0, GROUP, ROW_TILE):
            w, t = weights + tile * columns * 4, target + tile * 4
            _tile_one(w, inputs + m * columns * 4, columns, t + m * width * 4, width, columns)


@kernel(parallel=True)
def linear(x: NDArray[np.float32], table: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """out[m, first + n] = matrix[n] . x[m] for every matrix of `table`; x [M, K] and out [M, N] are contiguous."""
    groups = 0
    for s in range(table.shape[0]):
        groups += _groups(table[s])
    for g in numba.prange(groups):
        _compute_group(g, x, table, out)


@kernel(parallel=True)
def dequantise_into(table: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """out [N, K] = the weights of every quantised matrix of `table`, one below the other."""
    columns = out.shape[1]
    for s in range(table.shape[0]):
        for r in numba.prange(table[s, ROWS]):
            target = out.ctypes.data + (table[s, FIRST] + r) * columns * 4
            _decode(table[s, ADDRESS] + r * table[s, ROW_BYTES], table[s, FORMAT], target, columns // BLOCK)
