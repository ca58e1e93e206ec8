"""The weights of a packed block as vectors with one row of the panel in each lane: as float32, or as bytes.

Float values equal formats.dequantise bit for bit. Bytes are what an 8-bit product takes; weight = byte * scale, or
byte * scale + minimum in Q4_1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir

from topmast_kernels.cpu.formats import Format
from topmast_kernels.cpu.jit import LANES
from topmast_kernels.cpu.packing import HALVES, WORDS
from topmast_kernels.cpu.vector import F16, FLOATS, INTS, floats, fma, ints, load

_HALVES = ir.VectorType(F16, LANES)


def piece_bytes(kind: Format) -> int:
    """Of one panel's block."""
    return LANES * (2 * HALVES[kind] + 4 * WORDS[kind])


def scale(builder: Any, block: Any) -> Any:
    """The rows' scales."""
    return builder.fpext(load(builder, block, _HALVES), FLOATS)


def minimum(builder: Any, block: Any) -> Any:
    """The rows' minima: of Q4_1."""
    return builder.fpext(load(builder, block, _HALVES, 2 * LANES), FLOATS)


def _word(builder: Any, kind: Format, block: Any, number: int) -> Any:
    return load(builder, block, INTS, LANES * (2 * HALVES[kind] + 4 * number))


def byte_groups(builder: Any, kind: Format, block: Any) -> Iterator[tuple[int, Any]]:
    """(k, bytes of the weights k to k + 3) of a quantised block: nibbles 0 to 15, or int8."""
    for number in range(WORDS[kind]):
        word = _word(builder, kind, block, number)
        if kind is Format.Q8_0:
            yield 4 * number, word
        else:
            yield 4 * number, builder.and_(word, ints(0x0F0F0F0F))
            yield 4 * number + 16, builder.and_(builder.lshr(word, ints(4)), ints(0x0F0F0F0F))


def weights(builder: Any, kind: Format, block: Any) -> Iterator[tuple[int, Any]]:
    """(k, the float32 weights k) of a block; always in the same order, which is that of sums."""
    if kind is Format.F32:
        for number in range(WORDS[kind]):
            yield number, builder.bitcast(_word(builder, kind, block, number), FLOATS)
        return
    scales = scale(builder, block)
    if kind is Format.Q8_0:
        # A byte moves to the top of its word, and the scale shrinks: exact, and cheaper than extending the sign.
        shrunk = builder.fmul(scales, floats(2.0**-24))
        for first, word in byte_groups(builder, kind, block):
            for byte in range(4):
                top = builder.and_(builder.shl(word, ints(24 - 8 * byte)), ints(0xFF000000))
                yield first + byte, builder.fmul(builder.sitofp(top, FLOATS), shrunk)
        return
    least = minimum(builder, block) if kind is Format.Q4_1 else None
    for first, group in byte_groups(builder, kind, block):
        for byte in range(4):
            number = builder.and_(builder.lshr(group, ints(8 * byte)), ints(15))
            if kind is Format.Q4_1:
                yield first + byte, fma(builder, builder.sitofp(number, FLOATS), scales, least)  # the product is exact
            else:
                yield first + byte, builder.fmul(builder.sitofp(builder.sub(number, ints(8)), FLOATS), scales)
