"""What happens to single rows between the matrix products: norms with their residual sums, SiLU, rotary positions.

Each is vector code with a fixed order of summation, called row by row: serially for few rows, over threads for many,
with the same bits. Twin: the tests' float64 NumPy.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numpy.typing import NDArray

from topmast_kernels.cpu.jit import LANES, kernel
from topmast_kernels.cpu.native import link
from topmast_kernels.cpu.simd import Simd, strict_kernel
from topmast_kernels.cpu.vector import F32, const

_LOG2_E = 1.4426950408889634
_SERIAL = 1 << 15  # values that one thread works off about as fast as several: waking them takes microseconds
_PAIRS = 8  # rotary pairs per vector operation: head sizes are multiples of 16
_SILU_STEP = 512  # values per piece of parallel work


def _norm(builder: Any, x: Any, added: Any, weight: Any, epsilon: Any, out: Any, width: Any) -> None:
    """x += added (unless its address is 0); out = x / sqrt(mean(x^2) + the float32 at `epsilon`) * weight."""
    simd = Simd(builder)
    vectors = builder.udiv(width, const(LANES))
    total = cgutils.alloca_once(builder, simd.kind)
    builder.store(simd.constant(0.0), total)
    adds = builder.icmp_signed("!=", added, const(0))
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
    size = builder.call(root, [builder.fadd(mean, simd.load_one(epsilon))])
    factor = simd.splat(builder.fdiv(ir.Constant(F32, 1.0), size))
    with cgutils.for_range(builder, vectors) as loop:
        offset = builder.mul(loop.index, const(LANES * 4))
        scaled = builder.fmul(simd.load(builder.add(x, offset)), factor)
        simd.store(builder.fmul(scaled, simd.load(builder.add(weight, offset))), builder.add(out, offset))


def _silu(builder: Any, gate: Any, up: Any, out: Any, count: Any) -> None:
    """out = gate / (1 + e^-gate) * up, for `count` values, a multiple of LANES."""
    simd = Simd(builder)
    with cgutils.for_range(builder, builder.udiv(count, const(LANES))) as loop:
        offset = builder.mul(loop.index, const(LANES * 4))
        value = simd.load(builder.add(gate, offset))
        power = simd.exp2(builder.fmul(value, simd.constant(-_LOG2_E)))
        gated = builder.fdiv(value, builder.fadd(power, simd.constant(1.0)))
        simd.store(builder.fmul(gated, simd.load(builder.add(up, offset))), builder.add(out, offset))


def _turn(simd: Simd, cosines: Any, sines: Any, index: Any, first: Any, second: Any, scale: Any) -> tuple[Any, Any]:
    builder = simd.builder
    cosine, sine = (simd.load(simd.at(table, index, _PAIRS * 4)) for table in (cosines, sines))
    left = simd.fma(first, cosine, builder.fneg(builder.fmul(second, sine)))
    right = simd.fma(second, cosine, builder.fmul(first, sine))
    return builder.fmul(left, scale), builder.fmul(right, scale)


def _rotate(builder: Any, x: Any, cosines: Any, sines: Any, out: Any, pairs: Any, scale: Any) -> None:
    """out = x rotated, times the float32 at `scale`: pairs (i, i + pairs); cosines and sines [pairs]."""
    simd, half = Simd(builder, _PAIRS), builder.mul(pairs, const(4))
    factor = simd.splat(simd.load_one(scale))
    with cgutils.for_range(builder, builder.udiv(pairs, const(_PAIRS))) as loop:
        source, target = (simd.at(one, loop.index, _PAIRS * 4) for one in (x, out))
        first, second = simd.load(source), simd.load(builder.add(source, half))
        left, right = _turn(simd, cosines, sines, loop.index, first, second, factor)
        simd.store(left, target)
        simd.store(right, builder.add(target, half))


def _rotate_interleaved(builder: Any, x: Any, cosines: Any, sines: Any, out: Any, pairs: Any, scale: Any) -> None:
    """The same with pairs (2i, 2i + 1), as GGUF's llama has them."""
    simd, step = Simd(builder, _PAIRS), const(_PAIRS * 4)
    factor = simd.splat(simd.load_one(scale))
    with cgutils.for_range(builder, builder.udiv(pairs, const(_PAIRS))) as loop:
        source, target = (simd.at(one, loop.index, 2 * _PAIRS * 4) for one in (x, out))
        low, high = simd.load(source), simd.load(builder.add(source, step))
        even, odd = (simd.pick(low, high, range(n, 2 * _PAIRS, 2)) for n in (0, 1))
        left, right = _turn(simd, cosines, sines, loop.index, even, odd, factor)
        mixed = [n // 2 + n % 2 * _PAIRS for n in range(2 * _PAIRS)]
        simd.store(simd.pick(left, right, mixed[:_PAIRS]), target)
        simd.store(simd.pick(left, right, mixed[_PAIRS:]), builder.add(target, step))


_functions = link(
    {
        "rows_norm": (6, _norm),
        "rows_silu": (4, _silu),
        "rows_rotate": (6, _rotate),
        "rows_rotate_interleaved": (6, _rotate_interleaved),
    }
)
_norm_row, _silu_row = _functions["rows_norm"], _functions["rows_silu"]
_rotate_halves, _rotate_pairs = _functions["rows_rotate"], _functions["rows_rotate_interleaved"]


@strict_kernel
def rotate_head(x: int, cosines: int, sines: int, out: int, size: int, interleaved: bool, scale: int) -> None:
    """out [size] = x rotated, times the float32 at `scale`; cosines and sines [size / 2] are the position's; addresses.

    Pairs are (2i, 2i + 1) where interleaved, else (i, i + size / 2); `size` is a multiple of 16.
    """
    if interleaved:
        _rotate_pairs(x, cosines, sines, out, size // 2, scale)
    else:
        _rotate_halves(x, cosines, sines, out, size // 2, scale)


@strict_kernel
def _norm_rows(
    first: int,
    count: int,
    x: NDArray[np.float32],
    added: NDArray[np.float32],
    adds: bool,
    weight: NDArray[np.float32],
    epsilon: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    width = x.shape[1]
    for row in range(first, first + count):
        at = row * width * 4
        more = added.ctypes.data + at if adds else 0
        _norm_row(x.ctypes.data + at, more, weight.ctypes.data, epsilon.ctypes.data, out.ctypes.data + at, width)


@kernel(parallel=True)
def add_norm(
    x: NDArray[np.float32],
    added: NDArray[np.float32],
    adds: bool,
    weight: NDArray[np.float32],
    epsilon: NDArray[np.float32],
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
