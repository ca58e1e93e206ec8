"""Linear layers on packed weights, for any number of rows: exact, or with x rounded to eight bits.

Exact equals the product with the dequantised weights up to the order of summation. Rounded, each block of 32 columns
of x becomes int8 with a scale of its own, as llama.cpp does it: products of bytes are several times faster, and their
sums are exact. F32 weights always get exact products. Either way an output's bits depend neither on how many rows are
computed together, nor on the CPU. Twins: `formats.dequantise` and a matmul, and the same with x rounded in NumPy.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.formats import BLOCK, Format
from topmast_kernels.cpu.jit import kernel
from topmast_kernels.cpu.simd import take_number
from topmast_kernels.cpu.table import FORMAT, count_groups, find_group
from topmast_kernels.cpu.tile import FUNCTIONS, ROUNDED_BLOCK

_F32 = int(Format.F32)
_exact, _rounded, _round_blocks = (FUNCTIONS[name] for name in ("exact", "rounded", "round_blocks"))
_SERIAL = 1 << 14  # values that one thread rounds about as fast as several: waking them takes microseconds
_CACHE_LINE = 8  # int64 values: threads that count in one line slow each other down


@kernel()
def _compute_group(
    group: int, x: NDArray[np.float32], rounded: NDArray[np.uint8], table: NDArray[np.int64], out: NDArray[np.float32]
) -> None:
    """One group of weight rows for all rows of x."""
    line, panels, columns = find_group(group, table)
    kind, target, step = table[line, FORMAT], out.ctypes.data, out.shape[1] * 4
    outs = (target + columns[0] * 4, target + columns[1] * 4, target + columns[2] * 4)
    rows, blocks = x.shape[0], x.shape[1] // BLOCK
    if kind == _F32 or rounded.size == 0:
        _exact(kind, *panels, x.ctypes.data, x.shape[1] * 4, *outs, step, blocks, rows)
    else:
        _rounded(kind, *panels, rounded.ctypes.data, blocks * ROUNDED_BLOCK, *outs, step, blocks, rows)


@kernel()
def _work_off(
    thread: int,
    taken: NDArray[np.int64],
    x: NDArray[np.float32],
    rounded: NDArray[np.uint8],
    table: NDArray[np.int64],
    out: NDArray[np.float32],
) -> None:
    """A thread's own share of the groups, and then what others have left of theirs: some are slower, or interrupted."""
    threads, groups = len(taken), count_groups(table)
    for turn in range(threads):
        owner = (thread + turn) % threads
        first, end = owner * groups // threads, (owner + 1) * groups // threads
        counter = taken[owner].ctypes.data
        while True:
            group = first + take_number(counter)
            if group >= end:
                break
            _compute_group(group, x, rounded, table, out)


@kernel(parallel=True)
def _round_rows(x: NDArray[np.float32], rounded: NDArray[np.uint8]) -> None:
    blocks = x.shape[1] // BLOCK
    if x.size <= _SERIAL:
        _round_blocks(x.ctypes.data, rounded.ctypes.data, x.shape[0] * blocks)
    else:
        for row in numba.prange(x.shape[0]):
            place = rounded.ctypes.data + row * blocks * ROUNDED_BLOCK
            _round_blocks(x.ctypes.data + row * x.shape[1] * 4, place, blocks)


@kernel(parallel=True)
def linear(
    x: NDArray[np.float32], table: NDArray[np.int64], exact: bool, threads: int, out: NDArray[np.float32]
) -> None:
    """out[m, first + n] = matrix[n] . x[m] for every matrix of `table`; x [M, K] and out [M, N] are contiguous."""
    rounded = np.empty(0 if exact else x.size // BLOCK * ROUNDED_BLOCK, np.uint8)
    if not exact:
        _round_rows(x, rounded)
    taken = np.zeros((threads, _CACHE_LINE), np.int64)
    for thread in numba.prange(threads):
        _work_off(thread, taken, x, rounded, table, out)
