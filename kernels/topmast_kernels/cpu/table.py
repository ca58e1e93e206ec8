"""Tables of weight matrices that share one input, and how their panels are cut into parallel work."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.jit import LANES, PANELS, kernel
from topmast_kernels.cpu.packing import Packed

ADDRESS, FORMAT, ROWS, PANEL_BYTES, FIRST = range(5)  # columns of a matrix table


def matrix_table(matrices: list[Packed]) -> NDArray[np.int64]:
    """Matrices that share one input, as the kernels want them: outputs lie side by side. Valid while they live."""
    table = np.zeros((len(matrices), 5), np.int64)
    first = 0
    for line, matrix in zip(table, matrices, strict=True):
        line[:] = matrix.data.ctypes.data, int(matrix.format), matrix.rows, matrix.data.shape[1], first
        first += matrix.rows
    return table


@kernel()
def _groups_of(rows: int) -> int:
    return (rows + PANELS * LANES - 1) // (PANELS * LANES)


@kernel()
def count_groups(table: NDArray[np.int64]) -> int:
    """Pieces of parallel work in all matrices of `table`; no piece has rows of two."""
    groups = 0
    for line in range(table.shape[0]):
        groups += _groups_of(table[line, ROWS])
    return int(groups)


@kernel()
def find_group(group: int, table: NDArray[np.int64]) -> tuple[int, tuple[int, int, int], tuple[int, int, int]]:
    """Where this piece of work lies: line of `table`, address of each panel, first output column of each panel.

    The last piece of a matrix may have fewer than PANELS panels: some occur twice, and write equal values twice.
    """
    line = 0
    while group >= _groups_of(table[line, ROWS]):
        group -= _groups_of(table[line, ROWS])
        line += 1
    rows, step = table[line, ROWS], table[line, PANEL_BYTES]
    last, final = (rows - 1) // LANES, rows - LANES
    a, b, c = min(PANELS * group, last), min(PANELS * group + 1, last), min(PANELS * group + 2, last)
    weights, column = table[line, ADDRESS], table[line, FIRST]
    columns = (column + min(a * LANES, final), column + min(b * LANES, final), column + min(c * LANES, final))
    return line, (weights + a * step, weights + b * step, weights + c * step), columns
