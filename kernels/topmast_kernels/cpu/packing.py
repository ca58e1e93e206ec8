"""Weight matrices in the order in which the kernels read them: LANES rows side by side, block by block.

A panel is LANES adjacent rows. For each block of 32 columns it holds the rows' scales, their minima where the format
has them, and then their weights, 32 bits of every row at a time: vectors with one row in each lane. It takes as many
bytes as the rows did. The last panel overlaps its predecessor where the rows are no multiple of LANES.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topmast_kernels.cpu.formats import BLOCK, BLOCK_BYTES, Format, dequantise, row_bytes
from topmast_kernels.cpu.jit import LANES

HALVES = {Format.F32: 0, Format.Q4_0: 1, Format.Q4_1: 2, Format.Q8_0: 1}  # fp16 numbers before a block's weights
WORDS = {Format.F32: 32, Format.Q4_0: 4, Format.Q4_1: 4, Format.Q8_0: 8}  # 32-bit words of weights


class Packed(NamedTuple):
    """`rows` x `columns` weights; data [panels, bytes of a panel]."""

    format: Format
    data: NDArray[np.uint8]
    rows: int
    columns: int

    def take(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The float32 weights of some rows."""
        blocks = self.columns // BLOCK
        panels = np.minimum(ids // LANES, len(self.data) - 1)
        lanes = ids - np.minimum(panels * LANES, self.rows - LANES)
        kept = self.data.view(_packed_block(self.format)).reshape(-1, blocks)
        raw = np.empty((len(ids), blocks), _block(self.format))
        for name in raw.dtype.names or ():
            raw[name] = kept[name][panels, :, :, lanes]
        return dequantise(raw.view(np.uint8).reshape(len(ids), -1), self.format, self.columns)


def packed_bytes(kind: Format, rows: int, columns: int) -> int:
    """What `pack` needs."""
    return -(-rows // LANES) * LANES * row_bytes(kind, columns)


def pack(raw: NDArray[np.uint8], kind: Format, columns: int, memory: NDArray[np.uint8] | None = None) -> Packed:
    """A copy of `raw` [rows, row_bytes], as formats.py has it, in `memory` [packed_bytes] or in memory of its own."""
    rows, blocks, panels, whole = len(raw), columns // BLOCK, -(-len(raw) // LANES), len(raw) // LANES
    if memory is None:
        memory = np.empty(packed_bytes(kind, rows, columns), np.uint8)
    stored = np.ascontiguousarray(raw).view(_block(kind)).reshape(rows, blocks)
    packed = memory.view(_packed_block(kind)).reshape(panels, blocks)
    for name in stored.dtype.names or ():
        side_by_side = stored[name][: whole * LANES].reshape(whole, LANES, blocks, -1)
        packed[name][:whole] = side_by_side.transpose(0, 2, 3, 1)
        if whole < panels:
            packed[name][whole] = stored[name][rows - LANES :].transpose(1, 2, 0)
    return Packed(kind, memory.reshape(panels, -1), rows, columns)


def _block(kind: Format) -> np.dtype[np.void]:
    """One row's block as it is stored."""
    halves, words = HALVES[kind], WORDS[kind]
    fields = [("halves", "<u2", (halves,))] if halves else []
    block = np.dtype([*fields, ("words", "<u4", (words,))])
    assert block.itemsize == BLOCK_BYTES[kind]
    return block


def _packed_block(kind: Format) -> np.dtype[np.void]:
    """One panel's block."""
    halves, words = HALVES[kind], WORDS[kind]
    fields = [("halves", "<u2", (halves, LANES))] if halves else []
    return np.dtype([*fields, ("words", "<u4", (words, LANES))])
