"""What happens to single rows between the matrix products: norms with their residual sums, SiLU, rotary positions.

Each is vector code with a fixed order of summation, called row by row: serially for few rows, over threads for many,
with the same bits. Twin: the tests' float64 NumPy.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from topmast_kernels.cpu.jit import LANES, kernel
from topmast_kernels.cpu.simd import F32, I32, Simd, int64, strict_kernel

_LOG2_E = 1.4426950408889634
_SERIAL = 1 << 13  # values that one thread works off before another one has been woken up
_PAIRS = 8  # rotary pairs per vector operation: head sizes are multiples of 16
_SILU_STEP = 512  # values per piece of parallel work


@intrinsic  # type: ignore[untyped-decorator]
def _norm_row(_typing: Any, x: Any, added: Any, weight: Any, epsilon: Any, out: Any, width: Any) -> Any:
    """x += added (unless its address is 0); out = x / sqrt(mean(x^2) + epsilon) * weight."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        x, added, weight, epsilon, out, width = arguments
        simd = Simd(builder)
        vectors = builder.udiv(width, int64(LANES))
        total = cgutils.alloca_once_value(builder, simd.constant(0.0))
        builder.store(simd.constant(0.0), total)
        adds = builder.icmp_signed("!=", added, int64(0))
        source = builder.select(adds, added, x)  # some address that can be read
        with cgutils.for_range(builder, vectors) as loop:
            place = simd.at(x, loop.index, LANES * 4)
            value = simd.load(place)
            more = simd.load(simd.at(source, loop.index, LANES * 4))
            value = builder.select(adds, builder.fadd(value, more), value)
            simd.store(value, place)
            builder.store(simd.fma(value, value, builder.load(total)), total)
        squares = simd.fold(builder.load(total), builder.fadd)
        mean = builder.fdiv(squares, builder.sitofp(width, F32))
        root = cgutils.get_or_insert_function(builder.module, ir.FunctionType(F32, [F32]), "llvm.sqrt.f32")
        factor = builder.fdiv(ir.Constant(F32, 1.0), builder.call(root, [builder.fadd(mean, epsilon)]))
        factors = simd.splat(factor)
        with cgutils.for_range(builder, vectors) as loop:
            offset = builder.mul(loop.index, int64(LANES * 4))
            scaled = builder.fmul(simd.load(builder.add(x, offset)), factors)
            simd.store(builder.fmul(scaled, simd.load(builder.add(weight, offset))), builder.add(out, offset))
        return context.get_dummy_value()

    integer = types.int64
    return types.void(integer, integer, integer, types.float32, integer, integer), generate


@intrinsic  # type: ignore[untyped-decorator]
def _silu_row(_typing: Any, gate: Any, up: Any, out: Any, count: Any) -> Any:
    """out = gate / (1 + e^-gate) * up, for `count` values, a multiple of LANES."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        gate, up, out, count = arguments
        simd = Simd(builder)
        with cgutils.for_range(builder, builder.udiv(count, int64(LANES))) as loop:
            offset = builder.mul(loop.index, int64(LANES * 4))
            value = simd.load(builder.add(gate, offset))
            power = simd.exp2(builder.fmul(value, simd.constant(-_LOG2_E)))
            gated = builder.fdiv(value, builder.fadd(power, simd.constant(1.0)))
            simd.store(builder.fmul(gated, simd.load(builder.add(up, offset))), builder.add(out, offset))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic  # type: ignore[untyped-decorator]
def rotate_head(
    _typing: Any, x: Any, cosines: Any, sines: Any, out: Any, pairs: Any, interleaved: Any, scale: Any
) -> Any:
    """out = x rotated, times `scale`: pairs (2i, 2i+1) when interleaved (GGUF's llama), else (i, i + pairs).

    x and out have 2 * pairs values; cosines and sines [pairs] are the position's; pairs is a multiple of 8.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        x, cosines, sines, out, pairs, interleaved, scale = arguments
        simd = Simd(builder, _PAIRS)
        factor = simd.splat(scale)

        def turned(index: Any, first: Any, second: Any) -> tuple[Any, Any]:
            cosine, sine = (simd.load(simd.at(table, index, _PAIRS * 4)) for table in (cosines, sines))
            left = simd.fma(first, cosine, builder.fneg(builder.fmul(second, sine)))
            right = simd.fma(second, cosine, builder.fmul(first, sine))
            return builder.fmul(left, factor), builder.fmul(right, factor)

        def picked(a: Any, b: Any, lanes: list[int]) -> Any:
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, _PAIRS), lanes))

        half = simd.at(int64(0), pairs, 4)
        with builder.if_else(interleaved) as (then, otherwise):
            with then, cgutils.for_range(builder, builder.udiv(pairs, int64(_PAIRS))) as loop:
                source, target = (simd.at(one, loop.index, 2 * _PAIRS * 4) for one in (x, out))
                low, high = simd.load(source), simd.load(builder.add(source, int64(_PAIRS * 4)))
                even, odd = (picked(low, high, list(range(n, 2 * _PAIRS, 2))) for n in (0, 1))
                left, right = turned(loop.index, even, odd)
                mixed = [[n // 2 + n % 2 * _PAIRS for n in range(first, first + _PAIRS)] for first in (0, _PAIRS)]
                simd.store(picked(left, right, mixed[0]), target)
                simd.store(picked(left, right, mixed[1]), builder.add(target, int64(_PAIRS * 4)))
            with otherwise, cgutils.for_range(builder, builder.udiv(pairs, int64(_PAIRS))) as loop:
                source, target = (simd.at(one, loop.index, _PAIRS * 4) for one in (x, out))
                left, right = turned(loop.index, simd.load(source), simd.load(builder.add(source, half)))
                simd.store(left, target)
                simd.store(right, builder.add(target, half))
        return context.get_dummy_value()

    integer = types.int64
    return types.void(integer, integer, integer, integer, integer, types.boolean, types.float32), generate


@strict_kernel
def _norm_rows(
    first: int,
    count: int,
    x: NDArray[np.float32],
    added: NDArray[np.float32],
    adds: bool,
    weight: NDArray[np.float32],
    epsilon: float,
    out: NDArray[np.float32],
) -> None:
    width = x.shape[1]
    for row in range(first, first + count):
        at = row * width * 4
        more = added.ctypes.data + at if adds else 0
        _norm_row(x.ctypes.data + at, more, weight.ctypes.data, np.float32(epsilon), out.ctypes.data + at, width)


@kernel(parallel=True)
def add_norm(
    x: NDArray[np.float32],
    added: NDArray[np.float32],
    adds: bool,
    weight: NDArray[np.float32],
    epsilon: float,
    out: NDArray[np.float32],
) -> None:
    """x [M, H] += added (where `adds`), in place; out [M, H] = x / sqrt(mean(x^2) + epsilon) * weight, row by row."""
    if x.size <= _SERIAL:
        _norm_rows(0, x.shape[0], x, added, adds, weight, epsilon, out)
    else:
        for row in numba.prange(x.shape[0]):
            _norm_rows(row, 1, x, added, adds, weight, epsilon, out)


@strict_kernel
def _silu_piece(row: int, first: int, count: int, gate_up: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    width = out.shape[1]
    gate = gate_up.ctypes.data + (row * width * 2 + first) * 4
    _silu_row(gate, gate + width * 4, out.ctypes.data + (row * width + first) * 4, count)


@kernel(parallel=True)
def silu_multiply(gate_up: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """out [M, F] = silu(gate) * up, with gate_up [M, 2F] = gate, up."""
    rows, width = out.shape
    if out.size <= _SERIAL:
        for row in range(rows):
            _silu_piece(row, 0, width, gate_up, out)
    else:
        pieces = (width + _SILU_STEP - 1) // _SILU_STEP
        for piece in numba.prange(rows * pieces):
            first = piece % pieces * _SILU_STEP
            _silu_piece(piece // pieces, first, min(_SILU_STEP, width - first), gate_up, out)
