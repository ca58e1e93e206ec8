"""Tables of weight matrices that share one input, and how their rows are cut into panels and parallel work."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.formats import BLOCK, Format, row_bytes
from topmast_kernels.cpu.jit import LANES, PANELS, kernel

GROUP = PANELS * LANES  # weight rows per piece of parallel work
MIN_ROWS = 16  # of a matrix, on every CPU
ADDRESS, FORMAT, ROWS, ROW_BYTES, FIRST = range(5)  # columns of a matrix table


def matrix_table(matrices: list[tuple[int, Format, int]], columns: int) -> NDArray[np.int64]:
    """Matrices (address, format, rows) that share one input, as the kernels want them: outputs lie side by side."""
    table = np.zeros((len(matrices), 5), np.int64)
    first = 0
    for line, (address, kind, rows) in zip(table, matrices, strict=True):
        line[:] = address, int(kind), rows, row_bytes(kind, columns), first
        first += rows
    return table


def supported(rows: int, columns: int) -> bool:
    """Whether the kernels take a matrix of this shape."""
    return rows >= MIN_ROWS and columns % BLOCK == 0


@kernel()
def count_groups(table: NDArray[np.int64]) -> int:
    """Pieces of parallel work in all matrices of `table`; no piece has rows of two."""
    groups = 0
    for line in range(table.shape[0]):
        groups += (table[line, ROWS] + GROUP - 1) // GROUP
    return int(groups)


@kernel()
def find_group(group: int, table: NDArray[np.int64]) -> tuple[int, tuple[int, int, int], tuple[int, int, int]]:
    """Where this piece of work lies: line of `table`, address of each panel, first output column of each panel.

    Near the end of a matrix panels overlap: they write equal values twice rather than being short.
    """
    line = 0
    while group >= count_groups(table[line : line + 1]):
        group -= count_groups(table[line : line + 1])
        line += 1
    first, last, step = group * GROUP, table[line, ROWS] - LANES, table[line, ROW_BYTES]
    a, b, c = min(first, last), min(first + LANES, last), min(first + 2 * LANES, last)
    weights, column = table[line, ADDRESS], table[line, FIRST]
    return line, (weights + a * step, weights + b * step, weights + c * step), (column + a, column + b, column + c)
