"""Products of weight panels with rows of x, as functions that kernels call with addresses.

A panel is LANES adjacent weight rows; an output's sum runs over K in panel.py's order in one lane, so its bits depend
neither on how many rows are computed together nor on the vector width. These functions check nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numba.core import cgutils

from topmast_kernels.cpu.formats import BLOCK, BLOCK_BYTES, Format
from topmast_kernels.cpu.jit import HAS_BF16, LANES, PANELS
from topmast_kernels.cpu.native import Body, link
from topmast_kernels.cpu.panel import PAIRS, weight_pairs
from topmast_kernels.cpu.vector import (
    BFLOATS,
    F32,
    FLOATS,
    I32,
    const,
    dot_pairs,
    floats,
    fma,
    load,
    multiple,
    prefetch,
    round_pairs,
    splat,
    store,
)

BATCHES = (8, 4, 2, 1)  # rows of x in one tile


def _sums(builder: Any, count: int) -> list[Any]:
    """Places for `count` vectors, set to 0; LLVM keeps them in registers."""
    places = [cgutils.alloca_once(builder, FLOATS) for _ in range(count)]
    for place in places:
        builder.store(floats(0.0), place)  # here and not where the place is made: the caller may loop
    return places


def _panel_rows(builder: Any, address: Any, row_bytes: Any) -> list[Any]:
    return [builder.add(address, builder.mul(row_bytes, const(lane))) for lane in range(LANES)]


def _prefetch_ahead(builder: Any, kind: Format, panel: Any, row_bytes: Any, block: Any) -> None:
    """The piece of the panel PANELS further on that comes in turn with this block.

    The rows of a panel are read side by side, which the CPU's own prefetcher does not follow: without this the first
    reading of weights took 5 ns a block instead of 2.
    """
    piece = BLOCK_BYTES[kind] * LANES
    ahead = builder.add(panel, builder.mul(row_bytes, const(LANES * PANELS)))
    prefetch(builder, multiple(builder, ahead, block, piece), piece)


def _row(kind: Format) -> Body:
    def write(builder: Any, *arguments: Any) -> None:
        """Panels by one row of x, from the stored weights: no decoded weight leaves its register.

        Arguments: the address of each panel, then row_bytes, x, the address of each panel's outputs, K / 32.
        """
        panels, (row_bytes, x), outs, blocks = arguments[:3], arguments[3:5], arguments[5:8], arguments[8]
        sums = _sums(builder, PANELS)
        with cgutils.for_range(builder, blocks) as loop:
            x_block = multiple(builder, x, loop.index, BLOCK * 4)
            weights = []
            for panel in panels:
                block = multiple(builder, panel, loop.index, BLOCK_BYTES[kind])
                weights.append(weight_pairs(builder, kind, _panel_rows(builder, block, row_bytes)))
                _prefetch_ahead(builder, kind, panel, row_bytes, loop.index)
            for i, pairs in enumerate(zip(*weights, strict=True)):
                for half in range(2):
                    factor = splat(builder, load(builder, x_block, F32, 4 * (i + PAIRS * half)))
                    for pair, place in zip(pairs, sums, strict=True):
                        builder.store(fma(builder, pair[half], factor, builder.load(place)), place)
        for place, out in zip(sums, outs, strict=True):
            store(builder, builder.load(place), out)

    return write


def _decode(kind: Format, *, bf16: bool) -> Body:
    def write(builder: Any, panel: Any, row_bytes: Any, out: Any, blocks: Any) -> None:
        """One panel to float32 [K, LANES], or to bfloat16 pairs [K / 2, LANES, 2], in panel.py's order."""
        with cgutils.for_range(builder, blocks) as loop:
            block = multiple(builder, panel, loop.index, BLOCK_BYTES[kind])
            target = multiple(builder, out, loop.index, BLOCK * LANES * (2 if bf16 else 4))
            _prefetch_ahead(builder, kind, panel, row_bytes, loop.index)
            pairs = weight_pairs(builder, kind, _panel_rows(builder, block, row_bytes))
            for i, (low, high) in enumerate(pairs):
                vectors = [round_pairs(builder, low, high)] if bf16 else [low, high]
                for j, vector in enumerate(vectors):
                    store(builder, vector, target, (i * len(vectors) + j) * LANES * 4)

    return write


def _multiply_block(builder: Any, bf16: bool, panels: Sequence[Any], xs: Sequence[Any], sums: Sequence[Any]) -> None:
    """Add one block of 32 columns; sums in the order of panels, then rows of x. x comes in pairs where it is bf16."""
    if bf16:
        places = [(i, i) for i in range(PAIRS)]
    else:
        places = [(2 * i + half, i + PAIRS * half) for i in range(PAIRS) for half in range(2)]
    weight_kind, factor_kind = (BFLOATS, I32) if bf16 else (FLOATS, F32)
    for weight_at, x_at in places:
        weights = [load(builder, panel, weight_kind, weight_at * LANES * 4) for panel in panels]
        for b, x in enumerate(xs):
            factor = splat(builder, load(builder, x, factor_kind, x_at * 4))
            for p, weight in enumerate(weights):
                place = sums[p * len(xs) + b]
                value = builder.load(place)
                if bf16:
                    value = dot_pairs(builder, weight, builder.bitcast(factor, BFLOATS), value)
                else:
                    value = fma(builder, weight, factor, value)
                builder.store(value, place)


def _tile(batch: int, *, bf16: bool) -> Body:
    def write(builder: Any, *arguments: Any) -> None:
        """Decoded panels, which lie side by side, by `batch` rows of x, with all sums in registers.

        Arguments: panels, x, bytes of a row of x, the address of each panel's outputs, bytes of a row of them, K / 32.
        """
        (panels, x, x_bytes), outs, (out_bytes, blocks) = arguments[:3], arguments[3:6], arguments[6:]
        sums = _sums(builder, PANELS * batch)
        size = 2 if bf16 else 4
        panel_bytes = builder.mul(blocks, const(BLOCK * LANES * size))
        with cgutils.for_range(builder, blocks) as loop:
            first = multiple(builder, panels, loop.index, BLOCK * LANES * size)
            bases = [builder.add(first, builder.mul(panel_bytes, const(p))) for p in range(PANELS)]
            x_block = multiple(builder, x, loop.index, BLOCK * size)
            xs = [builder.add(x_block, builder.mul(x_bytes, const(b))) for b in range(batch)]
            _multiply_block(builder, bf16, bases, xs, sums)
        for i, place in enumerate(sums):
            target = builder.add(outs[i // batch], builder.mul(out_bytes, const(i % batch)))
            store(builder, builder.load(place), target)

    return write


def _round_row(builder: Any, x: Any, out: Any, blocks: Any) -> None:
    """float32 x as bfloat16 pairs in panel.py's order, rounded to nearest even."""
    with cgutils.for_range(builder, blocks) as loop:
        block = multiple(builder, x, loop.index, BLOCK * 4)
        low, high = (load(builder, block, FLOATS, offset) for offset in (0, PAIRS * 4))
        store(builder, round_pairs(builder, low, high), multiple(builder, out, loop.index, BLOCK * 2))


def _bodies() -> dict[str, tuple[int, Body]]:
    """Every function by name, with the number of its arguments."""
    bodies: dict[str, tuple[int, Body]] = {}
    for kind in Format:
        bodies[f"row_{kind.name.lower()}"] = 9, _row(kind)
    for bf16 in (False, True) if HAS_BF16 else (False,):
        prefix = "bf16_" if bf16 else ""
        for kind in Format:
            bodies[f"{prefix}decode_{kind.name.lower()}"] = 4, _decode(kind, bf16=bf16)
        for batch in BATCHES:
            bodies[f"{prefix}tile_{batch}"] = 8, _tile(batch, bf16=bf16)
    if HAS_BF16:
        bodies["round_row"] = 3, _round_row
    return bodies


FUNCTIONS = link(_bodies())
