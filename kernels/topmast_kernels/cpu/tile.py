"""Products of weight panels with rows of x, as functions that kernels call with addresses.

A panel is LANES weight rows side by side (packing.py); an output is summed up over K in one lane, always in the same
order, so its bits depend neither on how many rows are computed together nor on the vector width. Nothing is checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from topmast_kernels.cpu.dot import Dot
from topmast_kernels.cpu.formats import BLOCK, Format
from topmast_kernels.cpu.jit import LANES, PANELS
from topmast_kernels.cpu.native import Body, link
from topmast_kernels.cpu.panel import byte_groups, minimum, piece_bytes, scale, weights
from topmast_kernels.cpu.simd import Simd
from topmast_kernels.cpu.vector import (
    F32,
    FLOATS,
    I8,
    I32,
    I64,
    INTS,
    const,
    floats,
    fma,
    load,
    multiple,
    prefetch,
    splat,
    store,
)

ROUNDED_BLOCK = BLOCK + 12  # 32 int8, their scale, the scale times their sum (both float32), their sum (int32)
_SCALE, _SCALED_SUM, _SUM = BLOCK, BLOCK + 4, BLOCK + 8
_OFFSETS = {Format.Q4_0: 8, Format.Q4_1: 0, Format.Q8_0: 0}  # what byte_groups has too much
_BATCHES = (4, 2, 1)  # rows of x in one tile: 3 x 4 sums fit into 16 registers
_LARGEST = 127.0
_ROUND = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer, ties to even, in the low bits


def _sums(builder: Any, count: int) -> list[Any]:
    """Places for `count` vectors, set to 0; LLVM keeps them in registers."""
    places = [cgutils.alloca_once(builder, FLOATS) for _ in range(count)]
    for place in places:
        builder.store(floats(0.0), place)  # here and not where the place is made: the caller may loop
    return places


def _prefetch_ahead(builder: Any, kind: Format, panel: Any, blocks: Any, block: Any) -> None:
    """The piece of the panel PANELS further on that comes in turn with this block."""
    ahead = multiple(builder, panel, builder.add(block, builder.mul(blocks, const(PANELS))), piece_bytes(kind))
    prefetch(builder, ahead, piece_bytes(kind))


def _exact_block(builder: Any, kind: Format, panels: list[Any], xs: list[Any], sums: list[Any]) -> None:
    """float32 weights by float32 x."""
    for pieces in zip(*(weights(builder, kind, panel) for panel in panels), strict=True):
        for row, x in enumerate(xs):
            factor = splat(builder, load(builder, x, F32, 4 * pieces[0][0]))
            for panel, (_, weight) in enumerate(pieces):
                place = sums[panel * len(xs) + row]
                builder.store(fma(builder, weight, factor, builder.load(place)), place)


def _rounded_block(builder: Any, kind: Format, panels: list[Any], xs: list[Any], sums: list[Any]) -> None:
    """The weights' bytes by x's: exact sums, which the scales of both then weigh."""
    dot = Dot(builder, signed=kind is Format.Q8_0)
    totals = [dot.zero for _ in sums]
    for groups in zip(*(byte_groups(builder, kind, panel) for panel in panels), strict=True):
        ready = [dot.weights(group) for _, group in groups]
        for row, x in enumerate(xs):
            factors = dot.factors(splat(builder, load(builder, x, I32, groups[0][0])))
            for panel, group in enumerate(ready):
                place = panel * len(xs) + row
                totals[place] = dot.add(totals[place], group, factors)
    scales = [scale(builder, panel) for panel in panels]
    minima = [minimum(builder, panel) for panel in panels] if kind is Format.Q4_1 else []
    for row, x in enumerate(xs):
        factor, x_sum = (splat(builder, load(builder, x, kind_, at)) for kind_, at in ((F32, _SCALE), (I32, _SUM)))
        scaled_sum = splat(builder, load(builder, x, F32, _SCALED_SUM)) if minima else None
        for panel, panel_scale in enumerate(scales):
            place = panel * len(xs) + row
            total = builder.sitofp(dot.total(totals[place], x_sum, _OFFSETS[kind]), FLOATS)
            value = fma(builder, builder.fmul(total, panel_scale), factor, builder.load(sums[place]))
            if minima:
                value = fma(builder, minima[panel], scaled_sum, value)
            builder.store(value, sums[place])


def _tile(kind: Format, batch: int, *, exact: bool) -> Body:
    """PANELS panels by `batch` rows of x. Arguments: panels, x, bytes of a row, outputs, bytes of a row, K / 32."""

    def write(builder: Any, *arguments: Any) -> None:
        panels, (x, x_bytes), outs, (out_bytes, blocks) = arguments[:3], arguments[3:5], arguments[5:8], arguments[8:]
        sums = _sums(builder, PANELS * batch)
        with cgutils.for_range(builder, blocks) as loop:
            pieces = [multiple(builder, panel, loop.index, piece_bytes(kind)) for panel in panels]
            first = multiple(builder, x, loop.index, BLOCK * 4 if exact else ROUNDED_BLOCK)
            xs = [builder.add(first, builder.mul(x_bytes, const(row))) for row in range(batch)]
            for panel in panels:
                _prefetch_ahead(builder, kind, panel, blocks, loop.index)
            (_exact_block if exact else _rounded_block)(builder, kind, pieces, xs, sums)
        for i, place in enumerate(sums):
            target = builder.add(outs[i // batch], builder.mul(out_bytes, const(i % batch)))
            store(builder, builder.load(place), target)

    return write


def _rows(kind: Format, *, exact: bool) -> Body:
    """PANELS panels by any number of rows, as whole tiles and smaller ones. Arguments as `_tile`, then the rows."""

    def write(builder: Any, *arguments: Any) -> None:
        panels, (x, x_bytes), outs, (out_bytes, blocks, rows) = (
            arguments[:3],
            arguments[3:5],
            arguments[5:8],
            arguments[8:],
        )
        done: Any = const(0)
        for batch in _BATCHES:
            tiles = builder.udiv(builder.sub(rows, done), const(batch))
            name = f"topmast_{_name(kind, exact=exact)}_{batch}"
            tile = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [I64] * 10), name)
            with cgutils.for_range(builder, tiles) as loop:
                row = builder.add(done, builder.mul(loop.index, const(batch)))
                source = builder.add(x, builder.mul(row, x_bytes))
                targets = [builder.add(out, builder.mul(row, out_bytes)) for out in outs]
                builder.call(tile, [*panels, source, x_bytes, *targets, out_bytes, blocks])
            done = builder.add(done, builder.mul(tiles, const(batch)))

    return write


def _round_blocks(builder: Any, x: Any, out: Any, blocks: Any) -> None:
    """float32 x as int8 with one scale for each block of 32, rounded to nearest even.

    A block that holds anything but numbers gets a scale that is none, and so do all outputs that it is a part of.
    """
    simd = Simd(builder)
    with cgutils.for_range(builder, blocks) as loop:
        source, target = multiple(builder, x, loop.index, BLOCK * 4), multiple(builder, out, loop.index, ROUNDED_BLOCK)
        values = [load(builder, source, FLOATS, at) for at in range(0, BLOCK * 4, LANES * 4)]
        most, fault = floats(0.0), floats(0.0)
        for value in values:
            size = _magnitude(builder, value)
            most = simd.maximum(size, most)
            fault = builder.fadd(fault, builder.fmul(value, floats(0.0)))
        largest, fault = simd.fold(most, simd.maximum), simd.fold(fault, builder.fadd)
        factor = builder.fadd(builder.fmul(largest, ir.Constant(F32, 1 / _LARGEST)), fault)
        inverse = builder.fdiv(ir.Constant(F32, _LARGEST), largest)
        # 127 / largest overflows below 2^-121, and is none for zeros: such a block counts as zeros.
        tiny = builder.fcmp_unordered("<", largest, ir.Constant(F32, 2.0**-120))
        inverse = splat(builder, builder.select(tiny, ir.Constant(F32, 0.0), inverse))
        total = ir.Constant(INTS, None)
        for place, value in enumerate(values):
            # Rounded by adding, because converting what is no number to an integer is undefined.
            shifted = builder.fadd(builder.fmul(value, inverse), floats(_ROUND))
            number = builder.sub(builder.bitcast(shifted, INTS), builder.bitcast(floats(_ROUND), INTS))
            total = builder.add(total, number)
            store(builder, builder.trunc(number, ir.VectorType(I8, LANES)), target, place * LANES)
        x_sum = simd.fold(total, builder.add)
        store(builder, factor, target, _SCALE)
        store(builder, builder.fmul(factor, builder.sitofp(x_sum, F32)), target, _SCALED_SUM)
        store(builder, x_sum, target, _SUM)


def _magnitude(builder: Any, value: Any) -> Any:
    bits = builder.and_(builder.bitcast(value, INTS), ir.Constant(INTS, [0x7FFFFFFF] * LANES))
    return builder.bitcast(bits, FLOATS)


def _by_kind(*, exact: bool) -> Body:
    """`_rows` of the format whose number is the first argument."""

    def write(builder: Any, kind: Any, *arguments: Any) -> None:
        end = builder.append_basic_block("end")
        choice = builder.switch(kind, end)
        for each in _kinds(exact=exact):
            block = builder.append_basic_block(each.name)
            choice.add_case(const(int(each)), block)
            builder.position_at_end(block)
            signature = ir.FunctionType(ir.VoidType(), [I64] * len(arguments))
            rows = cgutils.get_or_insert_function(builder.module, signature, f"topmast_{_name(each, exact=exact)}")
            builder.call(rows, arguments)
            builder.branch(end)
        builder.position_at_end(end)

    return write


def _kinds(*, exact: bool) -> list[Format]:
    """Plain floats get exact products alone."""
    return [kind for kind in Format if exact or kind is not Format.F32]


def _name(kind: Format, *, exact: bool) -> str:
    return f"{'exact' if exact else 'rounded'}_{kind.name.lower()}"


def _bodies() -> dict[str, tuple[int, Body]]:
    """Every function by name, with the number of its arguments."""
    bodies: dict[str, tuple[int, Body]] = {"round_blocks": (3, _round_blocks)}
    for exact in (True, False):
        bodies["exact" if exact else "rounded"] = 12, _by_kind(exact=exact)
        for kind in _kinds(exact=exact):
            name = _name(kind, exact=exact)
            bodies[name] = 11, _rows(kind, exact=exact)
            bodies |= {f"{name}_{batch}": (10, _tile(kind, batch, exact=exact)) for batch in _BATCHES}
    return bodies


FUNCTIONS = link(_bodies())
