"""Linear layers with both operands rounded to bfloat16: twice the rate of float32, where the CPU has AVX512-BF16.

Weights are rounded after dequantisation, x once per call; sums are float32. As in linear.py, an output's bits do not
depend on how many rows are computed together; they are not linear.py's.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.formats import BLOCK, Format
from topmast_kernels.cpu.jit import HAS_BF16, LANES, PANELS, kernel
from topmast_kernels.cpu.table import FORMAT, ROW_BYTES, count_groups, find_group

_Q4_0, _Q4_1, _Q8_0 = (int(kind) for kind in (Format.Q4_0, Format.Q4_1, Format.Q8_0))

if HAS_BF16:
    from topmast_kernels.cpu.tile import FUNCTIONS

    _round_row = FUNCTIONS["round_row"]
    _decode_f32, _decode_q4_0, _decode_q4_1, _decode_q8_0 = (
        FUNCTIONS[f"bf16_decode_{kind.name.lower()}"] for kind in Format
    )
    _tile_8, _tile_4, _tile_2, _tile_1 = (FUNCTIONS[f"bf16_tile_{batch}"] for batch in (8, 4, 2, 1))

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
    def _multiply(panels: int, x: NDArray[np.uint16], out: NDArray[np.float32], columns: tuple[int, int, int]) -> None:
        """Decoded panels by all rows of x; `columns`: where each panel's outputs start."""
        blocks, x_bytes, out_bytes = x.shape[1] // BLOCK, x.shape[1] * 2, out.shape[1] * 4
        m = 0
        while m < x.shape[0]:
            left = x.shape[0] - m
            source, target = x.ctypes.data + m * x_bytes, out.ctypes.data + m * out_bytes
            outs = (target + columns[0] * 4, target + columns[1] * 4, target + columns[2] * 4)
            if left >= 8:
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
    def _compute_group(g: int, x: NDArray[np.uint16], table: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """One group of weight rows for all rows of x."""
        s, panels, columns = find_group(g, table)
        kind, stride = table[s, FORMAT], table[s, ROW_BYTES]
        scratch = np.empty((PANELS, x.shape[1], LANES), np.uint16)
        for p in range(PANELS):
            _decode(panels[p], kind, stride, scratch.ctypes.data + p * scratch.strides[0], x.shape[1] // BLOCK)
        _multiply(scratch.ctypes.data, x, out, columns)

    @kernel(parallel=True)
    def linear_bf16(x: NDArray[np.float32], table: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """out[m, first + n] = matrix[n] . x[m] for every matrix of `table`; x [M, K] and out [M, N] are contiguous."""
        rounded = np.empty(x.shape, np.uint16)
        _round_row(x.ctypes.data, rounded.ctypes.data, x.size // BLOCK)
        for g in numba.prange(count_groups(table)):
            _compute_group(g, rounded, table, out)

else:

    @kernel()
    def linear_bf16(x: NDArray[np.float32], table: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """There to be called from kernels that ask jit.HAS_BF16 first."""
        raise RuntimeError("this CPU has no AVX512-BF16: linear_bf16 needs it; use linear instead")
