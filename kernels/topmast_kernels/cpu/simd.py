"""The vocabulary that attention and the row functions are written in: LLVM vector code for one fixed number of lanes.

Nothing here is fast-math: every operation rounds as it is written, so a function's bits depend on its arguments alone
and not on what the optimiser made of its surroundings. Addresses are int64; LLVM lowers vectors to what there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from topmast_kernels.cpu import vector
from topmast_kernels.cpu.cache import cache_folder
from topmast_kernels.cpu.jit import LANES
from topmast_kernels.cpu.vector import F16, F32, I32, I64

_Function = TypeVar("_Function", bound=Callable[..., Any])

# 2^f on [-1/2, 1/2], relative error 8e-8; the constant term is 1, so that 2^0 is exactly 1.
_EXP2_HIGH = (0.00015353361959569156, 0.0013398875016719103, 0.00961843691766262)
_EXP2_LOW = (0.055503323674201965, 0.24022647738456726, 0.6931471824645996, 1.0)
_ROUND = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits


def strict_kernel(function: _Function) -> _Function:
    """Compile with IEEE arithmetic.

    Said aloud: a kernel that says nothing about fast-math takes over the flags of the first one that calls it, and
    numba writes a kernel's flags into the intrinsics that it uses.
    """
    return numba.njit(nogil=True, fastmath=False, cache=cache_folder() is not None)(function)  # type: ignore[no-any-return]


class Simd:
    """vector.py's instructions for any number of lanes, and what is made of them."""

    def __init__(self, builder: Any, lanes: int = LANES) -> None:
        self.builder, self.lanes = builder, lanes
        self.kind = ir.VectorType(F32, lanes)
        self.integers = ir.VectorType(I32, lanes)

    def constant(self, value: float) -> Any:
        """`value` in every lane."""
        return ir.Constant(self.kind, [value] * self.lanes)

    def integer(self, value: int) -> Any:
        """`value` in every lane, as int32."""
        return ir.Constant(self.integers, [value] * self.lanes)

    def at(self, address: Any, index: Any, size: int) -> Any:
        """address + index * size."""
        return vector.multiple(self.builder, address, index, size)

    def load(self, address: Any, *, half: bool = False) -> Any:
        """A vector from memory, widened where it is float16."""
        kind = ir.VectorType(F16, self.lanes) if half else self.kind
        value = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        value.align = 2 if half else 4
        return self.builder.fpext(value, self.kind) if half else value

    def load_one(self, address: Any) -> Any:
        """A float32 from memory."""
        value = self.builder.load(self.builder.inttoptr(address, F32.as_pointer()))
        value.align = 4
        return value

    def prefetch(self, address: Any) -> None:
        """Ask for a cache line that will be read soon; any address will do."""
        vector.prefetch(self.builder, address, vector.CACHE_LINE)

    def store(self, value: Any, address: Any, *, half: bool = False) -> None:
        """A vector or a scalar to memory, rounded to float16 where that is stored."""
        if half:
            narrow = F16 if value.type == F32 else ir.VectorType(F16, self.lanes)
            value = self.builder.fptrunc(value, narrow)
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = 2 if half else 4

    def splat(self, scalar: Any) -> Any:
        """A scalar in every lane."""
        kind = ir.VectorType(scalar.type, self.lanes)
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, first, ir.Constant(self.integers, [0] * self.lanes))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, rounded once; vectors or scalars."""
        name = "llvm.fma.f32" if a.type == F32 else f"llvm.fma.v{self.lanes}f32"
        return vector.call(self.builder, name, a.type, a, b, c)

    def maximum(self, a: Any, b: Any) -> Any:
        """The larger of two; `b` where a is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def fold(self, vector: Any, join: Callable[[Any, Any], Any]) -> Any:
        """All lanes joined in halves, always in the same order; a scalar."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            low, high = (ir.Constant(ir.VectorType(I32, lanes), list(range(n, n + lanes))) for n in (0, lanes))
            vector = join(
                self.builder.shuffle_vector(vector, vector, low), self.builder.shuffle_vector(vector, vector, high)
            )
        return self.first(vector)

    def first(self, vector: Any) -> Any:
        """The first lane."""
        return self.builder.extract_element(vector, ir.Constant(I32, 0))

    def pick(self, a: Any, b: Any, lanes: Iterable[int]) -> Any:
        """Lanes of two vectors by number; those of `b` follow those of `a`."""
        return self.builder.shuffle_vector(a, b, ir.Constant(self.integers, list(lanes)))

    def below(self, first: Any, end: Any) -> Any:
        """A mask: lane i is set where first + i < end (int64 scalars below 2^31)."""
        lanes = ir.Constant(self.integers, list(range(self.lanes)))
        room = self.builder.trunc(self.builder.sub(end, first), I32)
        return self.builder.icmp_signed("<", lanes, self.splat(room))

    def exp2(self, x: Any) -> Any:
        """2^x in every lane: 0 below -126, 2^126 above 126, NaN for NaN; relative error 1e-7."""
        builder = self.builder
        top = self.constant(126.0)
        x = builder.select(builder.fcmp_ordered(">", x, top), top, x)
        shifted = builder.fadd(x, self.constant(_ROUND))
        fraction = builder.fsub(x, builder.fsub(shifted, self.constant(_ROUND)))
        power = self.constant(_EXP2_HIGH[0])
        for coefficient in (*_EXP2_HIGH[1:], *_EXP2_LOW):
            power = self.fma(power, fraction, self.constant(coefficient))
        exponent = builder.shl(builder.bitcast(shifted, self.integers), self.integer(23))
        value = builder.bitcast(builder.add(builder.bitcast(power, self.integers), exponent), self.kind)
        return builder.select(builder.fcmp_ordered("<", x, self.constant(-126.0)), self.constant(0.0), value)


@intrinsic  # type: ignore[untyped-decorator]
def take_number(_typing: Any, counter: Any) -> Any:
    """Count up the int64 at address `counter`, with all threads that do; the number that it was."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], I64.as_pointer())
        return builder.atomic_rmw("add", place, vector.const(1), "monotonic")

    return types.int64(types.int64), generate
