"""Stored weights written out as float32, row by row: for torch, where it multiplies."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from topmast_kernels.cpu.formats import BLOCK, Format
from topmast_kernels.cpu.jit import kernel
from topmast_kernels.cpu.table import ADDRESS, FIRST, FORMAT, ROW_BYTES, ROWS
from topmast_kernels.cpu.vector import F16, F32, I8, load

_Q4_0, _Q4_1, _Q8_0 = (int(kind) for kind in (Format.Q4_0, Format.Q4_1, Format.Q8_0))


@intrinsic  # type: ignore[untyped-decorator]
def _half_at(_typing: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fpext(load(builder, arguments[0], F16), F32)

    return types.float32(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _byte_at(_typing: Any, address: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return load(builder, arguments[0], I8)

    return types.int8(types.int64), generate


@kernel()
def _write_block(address: int, kind: int, out: NDArray[np.float32]) -> None:
    """One block; as loops that LLVM turns into vector code."""
    scale = _half_at(address)
    if kind == _Q8_0:
        for i in range(BLOCK):
            out[i] = scale * np.float32(_byte_at(address + 2 + i))
    elif kind == _Q4_1:
        minimum = _half_at(address + 2)
        for i in range(16):
            packed = np.uint8(_byte_at(address + 4 + i))
            out[i] = scale * np.float32(packed & 15) + minimum
            out[i + 16] = scale * np.float32(packed >> 4) + minimum
    else:
        for i in range(16):
            packed = np.uint8(_byte_at(address + 2 + i))
            out[i] = scale * np.float32(np.int32(packed & 15) - 8)
            out[i + 16] = scale * np.float32(np.int32(packed >> 4) - 8)


@kernel(parallel=True)
def dequantise_into(table: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """out [N, K] = the weights of every quantised matrix of `table`, one below the other."""
    blocks = out.shape[1] // BLOCK
    for s in range(table.shape[0]):
        for r in numba.prange(table[s, ROWS]):
            row = out[table[s, FIRST] + r]
            start = table[s, ADDRESS] + r * table[s, ROW_BYTES]
            step = table[s, ROW_BYTES] // blocks
            for block in range(blocks):
                _write_block(start + block * step, table[s, FORMAT], row[block * BLOCK : (block + 1) * BLOCK])
