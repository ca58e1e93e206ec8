"""Products of bytes, four in each 32-bit lane, added up as integers: exact, so every CPU gives the same sums.

Weights are nibbles (0 to 15) or int8, x is int8 from -127 to 127. AVX512-VNNI and AVX-VNNI multiply unsigned bytes by
signed ones in one instruction; older CPUs take two, and other kinds of CPU what LLVM makes of plain arithmetic.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from topmast_kernels.cpu.jit import HAS_MADD, HAS_VNNI, LANES
from topmast_kernels.cpu.vector import I8, I16, INTS, call, ints, shuffle

_BYTES = ir.VectorType(I8, 4 * LANES)
_SHORTS = ir.VectorType(I16, 2 * LANES)
_MADD = {8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
_MADD_BYTES = {8: "llvm.x86.avx2.pmadd.ub.sw", 16: "llvm.x86.avx512.pmaddubs.w.512"}
_VNNI = {8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"}


class Dot:
    """One block's sums: `zero`, then `add` for each group of four, then `total`.

    `weights` and `factors` bring a group into the form that `add` takes; they are done once for all that share it.
    """

    def __init__(self, builder: Any, *, signed: bool) -> None:
        """signed: the weights are int8, else nibbles."""
        self._builder = builder
        # Sums of nibbles fit into 16 bits for a whole block: 8 x 2 x 15 x 127 < 32768.
        self._short = not HAS_VNNI and HAS_MADD and not signed
        # Unsigned instructions get int8 weights 128 too large, and `total` takes it off again.
        self._offset = 128 if HAS_VNNI and signed else 0

    @property
    def zero(self) -> Any:
        """What sums begin with."""
        return ir.Constant(_SHORTS if self._short else INTS, None)

    def weights(self, group: Any) -> Any:
        """A group of four weights per lane."""
        if HAS_VNNI or self._short:
            return self._builder.xor(group, ints(-0x7F7F7F80)) if self._offset else group
        return self._halves(group)

    def factors(self, group: Any) -> Any:
        """The same four bytes of x in every lane."""
        return group if HAS_VNNI or self._short else self._halves(group)

    def add(self, total: Any, weights: Any, factors: Any) -> Any:
        """total + the four products."""
        builder = self._builder
        if HAS_VNNI:
            operands = (builder.bitcast(one, _BYTES) for one in (weights, factors))
            return call(builder, _VNNI[LANES], INTS, total, *operands)
        if self._short:
            operands = (builder.bitcast(one, _BYTES) for one in (weights, factors))
            return builder.add(total, call(builder, _MADD_BYTES[LANES], _SHORTS, *operands))
        for one, other in zip(weights, factors, strict=True):
            total = builder.add(total, self._pairs(one, other))
        return total

    def total(self, total: Any, x_sum: Any, offset: int) -> Any:
        """The sums as int32, with `offset` taken off every weight; x_sum: the sum of the block of x in every lane."""
        if self._short:
            total = self._pairs(total, ir.Constant(_SHORTS, [1] * 2 * LANES))
        offset += self._offset
        return self._builder.sub(total, self._builder.mul(x_sum, ints(offset))) if offset else total

    def _halves(self, group: Any) -> tuple[Any, Any]:
        """Bytes 0 and 2, and bytes 1 and 3 of each lane, as int16 with their signs."""
        builder, eight = self._builder, ir.Constant(_SHORTS, [8] * 2 * LANES)
        shorts = builder.bitcast(group, _SHORTS)
        return builder.ashr(builder.shl(shorts, eight), eight), builder.ashr(shorts, eight)

    def _pairs(self, a: Any, b: Any) -> Any:
        """int32 sums of the products of adjacent int16."""
        if HAS_MADD:
            return call(self._builder, _MADD[LANES], INTS, a, b)
        products = []
        for first in (0, 1):
            even_or_odd = range(first, 2 * LANES, 2)
            wide = [self._builder.sext(shuffle(self._builder, one, one, even_or_odd), INTS) for one in (a, b)]
            products.append(self._builder.mul(*wide))
        return self._builder.add(*products)
