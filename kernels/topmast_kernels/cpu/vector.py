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
CACHE_LINE = 64


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


def prefetch(builder: Any, address: Any, size: int) -> None:
    """Bring so many bytes to the second level of cache; an address that does not exist does no harm."""
    kind = ir.IntType(8).as_pointer()
    for offset in range(0, size, CACHE_LINE):
        read, second_level, data = (ir.Constant(I32, n) for n in (0, 2, 1))
        pointer = _pointer(builder, address, offset, ir.IntType(8))
        call(builder, "llvm.prefetch.p0", ir.VoidType(), builder.bitcast(pointer, kind), read, second_level, data)
