"""How queries, keys and values lie in memory. Loads no numba: a model asks before there are kernels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SPLIT = 128  # positions that attention works off in one part


class Layout(NamedTuple):
    """Of the rows [heads queries, kv_heads keys, kv_heads values] and of the cache's blocks.

    A block of the cache is [layers, keys and values, kv_heads, piece]; a piece is [head_size, block_size] of keys,
    which lie transposed, or [block_size, head_size] of values.
    """

    heads: int
    kv_heads: int
    head_size: int
    block_size: int  # positions
    half: bool  # the cache's values are float16, else float32
    interleaved: bool  # rotary pairs are (2i, 2i + 1), else (i, i + head_size / 2)


class Paged(NamedTuple):
    """Where the rows of a step and their sequences' keys and values are."""

    spans: NDArray[np.int64]  # [S, 4], in row order, covering all rows; the columns are below
    tables: NDArray[np.int32]  # [lines, n]: ids of a sequence's blocks
    cosines: NDArray[np.float32]  # [positions, head_size / 2]
    sines: NDArray[np.float32]
    cache: NDArray[np.uint8]  # [blocks, bytes of a block]


ROW, START, COUNT, LINE = range(4)  # a span: its first row, that one's position, rows, line of the tables


def supported(layout: Layout) -> bool:
    """Whether the compiled attention takes such heads and blocks: whole vectors, and parts that are whole blocks."""
    small, large = sorted((layout.block_size, SPLIT))
    return layout.heads % layout.kv_heads == 0 and layout.head_size % 16 == 0 and small % 16 == 0 and large % small == 0
