"""Blocks of LANES adjacent weight rows, decoded to vectors with one weight of every row: no sums across lanes.

Values equal formats.dequantise bit for bit. A block of 32 comes in pairs (0, 16), (1, 17) .. (15, 31), the order of
nibbles in memory, whatever the format and the CPU: it is the order in which every product is summed up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llvmlite import ir

from topmast_kernels.cpu.formats import Format
from topmast_kernels.cpu.jit import LANES
from topmast_kernels.cpu.vector import F16, FLOATS, I16, I32, floats, fma, gather, ints, transpose

PAIRS = 16  # of weights in a block
_HALVES = ir.VectorType(F16, LANES)
_SHORTS = ir.VectorType(I16, LANES)


def weight_pairs(builder: Any, kind: Format, rows: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Weights i and i + 16, for i = 0 .. 15, of the block at each of the LANES addresses `rows`."""
    if kind is Format.F32:
        return _plain(builder, rows)
    if kind is Format.Q8_0:
        return _bytes(builder, rows)
    return _nibbles(builder, kind, rows)


def _half_floats(builder: Any, bits: Any) -> Any:
    return builder.fpext(builder.bitcast(bits, _HALVES), FLOATS)


def _plain(builder: Any, rows: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    for offset in range(0, 64, 16):
        for words in zip(transpose(builder, rows, offset), transpose(builder, rows, offset + 64), strict=True):
            low, high = (builder.bitcast(word, FLOATS) for word in words)
            yield low, high


def _bytes(builder: Any, rows: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """A byte moves to the top of its word, and the scale shrinks: exact, and cheaper than extending the sign."""
    scale = builder.fmul(_half_floats(builder, gather(builder, rows, I16, 0)), floats(2.0**-24))

    def weight(word: Any, byte: int) -> Any:
        top = builder.and_(builder.shl(word, ints(24 - 8 * byte)), ints(0xFF000000))
        return builder.fmul(builder.sitofp(top, FLOATS), scale)

    for words in zip(transpose(builder, rows, 2), transpose(builder, rows, 18), strict=True):
        for byte in range(4):
            yield weight(words[0], byte), weight(words[1], byte)


def _nibbles(builder: Any, kind: Format, rows: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """A nibble stays where it is in its half word, 2**shift too large; the scale is that much smaller: exact again."""
    minimum: Any = None
    if kind is Format.Q4_1:
        header = gather(builder, rows, I32, 0)
        scale = _half_floats(builder, builder.trunc(header, _SHORTS))
        minimum = _half_floats(builder, builder.trunc(builder.lshr(header, ints(16)), _SHORTS))
    else:
        scale = _half_floats(builder, gather(builder, rows, I16, 0))
    scales = {shift: builder.fmul(scale, floats(2.0**-shift)) if shift else scale for shift in range(0, 16, 4)}

    def weight(word: Any, shift: int) -> Any:
        nibble = builder.and_(word, ints(15 << shift))
        if kind is Format.Q4_1:
            return fma(builder, builder.sitofp(nibble, FLOATS), scales[shift], minimum)  # the product is exact
        return builder.fmul(builder.sitofp(builder.sub(nibble, ints(8 << shift)), FLOATS), scales[shift])

    for word in transpose(builder, rows, 4 if kind is Format.Q4_1 else 2):
        for half in (word, builder.lshr(word, ints(16))):
            for shift in (0, 8):
                yield weight(half, shift), weight(half, shift + 4)
