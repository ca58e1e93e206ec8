"""Vector instructions as LLVM's generic operations, for code that is written one vector at a time.

LLVM lowers them to AVX2, AVX-512, NEON or whatever there is. Addresses are integers, offsets in bytes. Knows nothing
of weights and layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from topmast_kernels.cpu.jit import LANES

F32, F16 = ir.FloatType(), ir.HalfType()
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOATS = ir.VectorType(F32, LANES)
INTS = ir.VectorType(I32, LANES)
BFLOATS = ir.VectorType(I16, 2 * LANES)  # bfloat16 pairs: as many bytes as FLOATS
CACHE_LINE = 64
_QUAD = ir.VectorType(I32, 4)  # 16 bytes of one row


def const(value: int) -> Any:
    """A 64-bit constant, for addresses and counts."""
    return ir.Constant(I64, value)


def floats(value: float) -> Any:
    """The same float32 constant in all lanes."""
    return ir.Constant(FLOATS, [value] * LANES)


def ints(value: int) -> Any:
    """The same 32-bit constant in all lanes."""
    return ir.Constant(INTS, [value] * LANES)


def multiple(builder: Any, address: Any, count: Any, size: int) -> Any:
    """address + count * size."""
    return builder.add(address, builder.mul(count, const(size)))


def _pointer(builder: Any, address: Any, offset: int, kind: Any) -> Any:
    return builder.inttoptr(builder.add(address, const(offset)), kind.as_pointer())


def load(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    """A value at `address + offset`, which need not be aligned."""
    value = builder.load(_pointer(builder, address, offset, kind))
    value.align = 1
    return value


def store(builder: Any, value: Any, address: Any, offset: int = 0) -> None:
    """The reverse of load."""
    builder.store(value, _pointer(builder, address, offset, value.type)).align = 1


def splat(builder: Any, value: Any) -> Any:
    """One scalar in all lanes."""
    kind = ir.VectorType(value.type, LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    return shuffle(builder, first, first, [0] * LANES)


def shuffle(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    """The named lanes of a and b; b's are counted on from a's."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """One of LLVM's own functions."""
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return call(builder, f"llvm.fma.v{LANES}f32", FLOATS, a, b, c)


def round_pairs(builder: Any, low: Any, high: Any) -> Any:
    """BFLOATS: low[0], high[0], low[1], high[1] ... rounded to nearest even. Needs AVX512-BF16."""
    both = call(builder, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", BFLOATS, high, low)  # low's come first
    return shuffle(builder, both, both, [half + lane for lane in range(LANES) for half in (0, LANES)])


def dot_pairs(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """c + the products of both members of each pair of a and b, in float32. Needs AVX512-BF16."""
    return call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, c, a, b)


def prefetch(builder: Any, address: Any, size: int) -> None:
    """Bring so many bytes to the second level of cache; an address that does not exist does no harm."""
    kind = ir.IntType(8).as_pointer()
    for offset in range(0, size, CACHE_LINE):
        read, second_level, data = (ir.Constant(I32, n) for n in (0, 2, 1))
        pointer = _pointer(builder, address, offset, ir.IntType(8))
        call(builder, "llvm.prefetch.p0", ir.VoidType(), builder.bitcast(pointer, kind), read, second_level, data)


def gather(builder: Any, rows: Sequence[Any], kind: Any, offset: int) -> Any:
    """One scalar of type `kind` at `offset` of each of LANES rows."""
    vector = ir.Constant(ir.VectorType(kind, LANES), ir.Undefined)
    for lane, row in enumerate(rows):
        vector = builder.insert_element(vector, load(builder, row, kind, offset), ir.Constant(I32, lane))
    return vector


def transpose(builder: Any, rows: Sequence[Any], offset: int) -> list[Any]:
    """The four 32-bit words at `offset` of each of LANES rows: four vectors with a lane for each row."""
    columns = []
    for q in range(4):  # rows q, q + 4, q + 8 .. side by side
        parts = [load(builder, row, _QUAD, offset) for row in rows[q::4]]
        while len(parts) > 1:
            width = 2 * parts[0].type.count
            parts = [shuffle(builder, a, b, range(width)) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        columns.append(parts[0])

    def unpack(a: Any, b: Any, words: Sequence[int]) -> Any:
        """In each 16 bytes, these words of a's and b's; b's are counted from 4."""
        lanes = [first + word % 4 + (LANES if word > 3 else 0) for first in range(0, LANES, 4) for word in words]
        return shuffle(builder, a, b, lanes)

    halves = []
    for words in ((0, 4, 1, 5), (2, 6, 3, 7)):
        even, odd = unpack(columns[0], columns[1], words), unpack(columns[2], columns[3], words)
        halves += [unpack(even, odd, (0, 1, 4, 5)), unpack(even, odd, (2, 3, 6, 7))]
    return halves
