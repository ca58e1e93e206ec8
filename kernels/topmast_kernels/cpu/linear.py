"""Linear layers on weights as they lie in the model file: exact, in float32, for any number of rows.

Equals the product with the dequantised weights up to the order of summation, which is fixed: an output's bits do not
depend on how many rows are computed together. The twin is `formats.dequantise` and a matmul.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.dequantise import dequantise_into
from topmast_kernels.cpu.formats import BLOCK, Format
from topmast_kernels.cpu.jit import BATCH_TILE, LANES, PANELS, kernel
from topmast_kernels.cpu.table import FORMAT, ROW_BYTES, count_groups, find_group, matrix_table, supported
from topmast_kernels.cpu.tile import FUNCTIONS

__all__ = ["dequantise_into", "linear", "matrix_table", "supported"]

_Q4_0, _Q4_1, _Q8_0 = (int(kind) for kind in (Format.Q4_0, Format.Q4_1, Format.Q8_0))
_row_f32, _row_q4_0, _row_q4_1, _row_q8_0 = (FUNCTIONS[f"row_{kind.name.lower()}"] for kind in Format)
_decode_f32, _decode_q4_0, _decode_q4_1, _decode_q8_0 = (FUNCTIONS[f"decode_{kind.name.lower()}"] for kind in Format)
_tile_8, _tile_4, _tile_2, _tile_1 = (FUNCTIONS[f"tile_{batch}"] for batch in (8, 4, 2, 1))


@kernel()
def _one_row(panels: tuple[int, int, int], kind: int, stride: int, x: int, outs: tuple[int, int, int], n: int) -> None:
    if kind == _Q4_1:
        _row_q4_1(*panels, stride, x, *outs, n)
    elif kind == _Q8_0:
        _row_q8_0(*panels, stride, x, *outs, n)
    elif kind == _Q4_0:
        _row_q4_0(*panels, stride, x, *outs, n)
    else:
        _row_f32(*panels, stride, x, *outs, n)


@kernel()
def _decode(panel: int, kind: int, stride: int, out: int, blocks: int) -> None:
    if kind == _Q4_1:
        _decode_q4_1(panel, stride, out, blocks)
    elif kind == _Q8_0:
        _decode_q8_0(panel, stride, out, blocks)
    elif kind == _Q4_0:
        _decode_q4_0(panel, stride, out, blocks)
    else:
        _decode_f32(panel, stride, out, blocks)


@kernel()
def _multiply(panels: int, x: NDArray[np.float32], out: NDArray[np.float32], columns: tuple[int, int, int]) -> None:
    """Decoded panels by all rows of x; `columns`: where each panel's outputs start."""
    blocks, x_bytes, out_bytes = x.shape[1] // BLOCK, x.shape[1] * 4, out.shape[1] * 4
    m = 0
    while m < x.shape[0]:
        left = x.shape[0] - m
        source, target = x.ctypes.data + m * x_bytes, out.ctypes.data + m * out_bytes
        outs = (target + columns[0] * 4, target + columns[1] * 4, target + columns[2] * 4)
        if BATCH_TILE == 8 and left >= 8:
            _tile_8(panels, source, x_bytes, *outs, out_bytes, blocks)
            m += 8
        elif left >= 4:
            _tile_4(panels, source, x_bytes, *outs, out_bytes, blocks)
            m += 4
        elif left >= 2:
            _tile_2(panels, source, x_bytes, *outs, out_bytes, blocks)
            m += 2
        else:
            _tile_1(panels, source, x_bytes, *outs, out_bytes, blocks)
            m += 1


@kernel()
def _compute_group(g: int, x: NDArray[np.float32], table: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """One group of weight rows for all rows of x."""
    s, panels, columns = find_group(g, table)
    kind, stride = table[s, FORMAT], table[s, ROW_BYTES]
    blocks = x.shape[1] // BLOCK
    if x.shape[0] == 1:
        target = out.ctypes.data
        outs = (target + columns[0] * 4, target + columns[1] * 4, target + columns[2] * 4)
        _one_row(panels, kind, stride, x.ctypes.data, outs, blocks)
        return
    scratch = np.empty((PANELS, x.shape[1], LANES), np.float32)
    for p in range(PANELS):
        _decode(panels[p], kind, stride, scratch.ctypes.data + p * scratch.strides[0], blocks)
    _multiply(scratch.ctypes.data, x, out, columns)


@kernel(parallel=True)
def linear(x: NDArray[np.float32], table: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """out[m, first + n] = matrix[n] . x[m] for every matrix of `table`; x [M, K] and out [M, N] are contiguous."""
    for g in numba.prange(count_groups(table)):
        _compute_group(g, x, table, out)
