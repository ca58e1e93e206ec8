"""How queries, keys and values lie in memory. Loads no numba: a model asks before there are kernels."""

from __future__ import annotations

from typing import NamedTuple

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


def supported(layout: Layout) -> bool:
    """Whether the compiled attention takes such heads and blocks: whole vectors, and parts that are whole blocks."""
    small, large = sorted((layout.block_size, SPLIT))
    return layout.heads % layout.kv_heads == 0 and layout.head_size % 16 == 0 and small % 16 == 0 and large % small == 0
