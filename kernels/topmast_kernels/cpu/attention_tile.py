"""The innermost loops of attention: a small matrix product, the softmax of a row of scores, and joining two parts.

The product serves both halves: scores are queries times stored keys (which lie transposed), answers are probabilities
times stored values. Every sum runs in the order of its index, so an element's bits do not depend on the tile around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from topmast_kernels.cpu.jit import LANES
from topmast_kernels.cpu.simd import F32, Simd, int64, strict_kernel

_WIDE = 4 if LANES == 16 else 2  # vectors of one row whose sums live in registers: 6 x 4 of 32, or 6 x 2 of 16
_FULL = 6  # rows likewise
_LINE = 64  # bytes of a cache line
_MINUS_INFINITY = float("-inf")


def _make_product(rows: int, vectors: int, half: bool) -> Callable[..., None]:
    size = 2 if half else 4

    @intrinsic  # type: ignore[untyped-decorator]
    def product(
        _typing: Any,
        a: Any,
        a_stride: Any,
        b: Any,
        b_stride: Any,
        count: Any,
        out: Any,
        out_stride: Any,
        add: Any,
        ahead: Any,
    ) -> Any:
        """out[r, c] = (out[r, c] where `add`) + sum over `count` k of a[r, k] b[k, c]; strides in elements."""
        signature = types.void(*[types.int64] * 9)

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            a, a_stride, b, b_stride, count, out, out_stride, add, ahead = arguments
            simd = Simd(builder)
            a_rows = [simd.at(a, builder.mul(a_stride, int64(r)), 4) for r in range(rows)]
            places = [
                [
                    builder.add(simd.at(out, builder.mul(out_stride, int64(r)), 4), int64(v * LANES * 4))
                    for v in range(vectors)
                ]
                for r in range(rows)
            ]
            sums = [[cgutils.alloca_once_value(builder, simd.constant(0.0)) for _ in row] for row in places]
            adds = builder.icmp_signed("!=", add, int64(0))
            for row, targets in zip(places, sums, strict=True):
                for place, total in zip(row, targets, strict=True):
                    builder.store(builder.select(adds, simd.load(place), simd.constant(0.0)), total)
            with cgutils.for_range(builder, count) as loop:
                line = simd.at(b, builder.mul(b_stride, loop.index), size)
                if rows < _FULL:  # many rows share what the first of them has loaded
                    for offset in range(0, vectors * LANES * size, _LINE):
                        simd.prefetch(builder.add(builder.add(line, ahead), int64(offset)))
                parts = [simd.load(builder.add(line, int64(v * LANES * size)), half=half) for v in range(vectors)]
                for address, targets in zip(a_rows, sums, strict=True):
                    factor = simd.splat(simd.load_one(simd.at(address, loop.index, 4)))
                    for part, total in zip(parts, targets, strict=True):
                        builder.store(simd.fma(factor, part, builder.load(total)), total)
            for row, targets in zip(places, sums, strict=True):
                for place, total in zip(row, targets, strict=True):
                    simd.store(builder.load(total), place)
            return context.get_dummy_value()

        return signature, generate

    return product  # type: ignore[no-any-return]


def _make_rows(rows: int, half: bool) -> Callable[..., None]:
    """`rows` rows over any number of columns that is a multiple of LANES."""
    wide, pair, one = (_make_product(rows, vectors, half) for vectors in (_WIDE, 2, 1))

    @strict_kernel
    def product_rows(
        a: int,
        a_stride: int,
        b: int,
        b_stride: int,
        count: int,
        out: int,
        out_stride: int,
        columns: int,
        add: int,
        ahead: int,
    ) -> None:
        item = 2 if half else 4
        done = 0
        while columns - done >= _WIDE * LANES:
            wide(a, a_stride, b + done * item, b_stride, count, out + done * 4, out_stride, add, ahead)
            done += _WIDE * LANES
        while columns - done >= 2 * LANES:
            pair(a, a_stride, b + done * item, b_stride, count, out + done * 4, out_stride, add, ahead)
            done += 2 * LANES
        if columns > done:
            one(a, a_stride, b + done * item, b_stride, count, out + done * 4, out_stride, add, ahead)

    return product_rows


_six, _three, _two, _one = (_make_rows(rows, False) for rows in (6, 3, 2, 1))
_six_half, _three_half, _two_half, _one_half = (_make_rows(rows, True) for rows in (6, 3, 2, 1))


@strict_kernel
def product(
    rows: int,
    half: bool,
    a: int,
    a_stride: int,
    b: int,
    b_stride: int,
    count: int,
    out: int,
    out_stride: int,
    columns: int,
    add: int,
    ahead: int,
) -> None:
    """out[r, c] = (out[r, c] where `add`) + sum over `count` k of a[r, k] b[k, c], for `rows` x `columns` of them.
    What lies `ahead` bytes further on than b is fetched meanwhile.

    Addresses, and strides in elements; b is float16 where `half`, all else float32; `columns` is a multiple of LANES.
    """
    row = 0
    while row < rows:
        left = rows - row
        step = 6 if left >= 6 else 3 if left >= 3 else left
        source, target = a + row * a_stride * 4, out + row * out_stride * 4
        if half:
            if step == 6:
                _six_half(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
            elif step == 3:
                _three_half(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
            elif step == 2:
                _two_half(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
            else:
                _one_half(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
        elif step == 6:
            _six(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
        elif step == 3:
            _three(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
        elif step == 2:
            _two(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
        else:
            _one(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
        row += step


@intrinsic  # type: ignore[untyped-decorator]
def softmax_row(_typing: Any, scores: Any, valid: Any, padded: Any, state: Any) -> Any:
    """scores[:valid] become 2^(score - best), the rest up to `padded` (a multiple of LANES) 0; state = best, sum.

    A NaN score makes the sum NaN; the entries beyond `valid` may be anything before.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        scores, valid, padded, state = arguments
        simd = Simd(builder)
        vectors = builder.udiv(padded, int64(LANES))
        best = cgutils.alloca_once_value(builder, simd.constant(_MINUS_INFINITY))
        builder.store(simd.constant(_MINUS_INFINITY), best)
        with cgutils.for_range(builder, vectors) as loop:
            mask = simd.below(builder.mul(loop.index, int64(LANES)), valid)
            score = simd.load(simd.at(scores, loop.index, LANES * 4))
            seen = builder.select(mask, score, simd.constant(_MINUS_INFINITY))
            builder.store(simd.maximum(seen, builder.load(best)), best)
        most = simd.fold(builder.load(best), simd.maximum)
        total = cgutils.alloca_once_value(builder, simd.constant(0.0))
        builder.store(simd.constant(0.0), total)
        with cgutils.for_range(builder, vectors) as loop:
            mask = simd.below(builder.mul(loop.index, int64(LANES)), valid)
            place = simd.at(scores, loop.index, LANES * 4)
            weight = simd.exp2(builder.fsub(simd.load(place), simd.splat(most)))
            weight = builder.select(mask, weight, simd.constant(0.0))
            simd.store(weight, place)
            builder.store(builder.fadd(builder.load(total), weight), total)
        simd.store(most, state)
        simd.store(simd.fold(builder.load(total), builder.fadd), builder.add(state, int64(4)))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic  # type: ignore[untyped-decorator]
def join(_typing: Any, answer: Any, state: Any, part: Any, part_state: Any, width: Any) -> Any:
    """Add a later part's sum of weighted values [width] to `answer`, both relative to their own best score.

    A state is (best, sum of weights), and (-infinity, 0) with zeros for nothing yet: the first part is taken as it is.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        answer, state, part, part_state, width = arguments
        simd = Simd(builder)
        mine, theirs = simd.load_one(state), simd.load_one(part_state)
        best = simd.maximum(mine, theirs)
        factors = [simd.exp2(simd.splat(builder.fsub(one, best))) for one in (mine, theirs)]
        first, second = (builder.extract_element(factor, ir.Constant(ir.IntType(32), 0)) for factor in factors)
        sums = [simd.load_one(builder.add(one, int64(4))) for one in (state, part_state)]
        simd.store(best, state)
        simd.store(simd.fma(sums[1], second, builder.fmul(sums[0], first)), builder.add(state, int64(4)))
        with cgutils.for_range(builder, builder.udiv(width, int64(LANES))) as loop:
            place = simd.at(answer, loop.index, LANES * 4)
            value = builder.fmul(simd.load(place), factors[0])
            simd.store(simd.fma(simd.load(simd.at(part, loop.index, LANES * 4)), factors[1], value), place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic  # type: ignore[untyped-decorator]
def divide(_typing: Any, values: Any, by: Any, out: Any, width: Any) -> Any:
    """out[:width] = values / the float32 at address `by`."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        values, by, out, width = arguments
        simd = Simd(builder)
        one = ir.Constant(F32, 1.0)
        factor = simd.splat(builder.fdiv(one, simd.load_one(by)))
        with cgutils.for_range(builder, builder.udiv(width, int64(LANES))) as loop:
            value = builder.fmul(simd.load(simd.at(values, loop.index, LANES * 4)), factor)
            simd.store(value, simd.at(out, loop.index, LANES * 4))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _make_put(half: bool) -> Callable[..., None]:
    @intrinsic  # type: ignore[untyped-decorator]
    def put(_typing: Any, source: Any, target: Any, step: Any, count: Any) -> Any:
        """target[i * step] = source[i] for `count` float32 values; float16 there where `half`."""

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            source, target, step, count = arguments
            simd = Simd(builder)
            with cgutils.for_range(builder, count) as loop:
                place = simd.at(target, builder.mul(loop.index, step), 2 if half else 4)
                simd.store(simd.load_one(simd.at(source, loop.index, 4)), place, half=half)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), generate

    return put  # type: ignore[no-any-return]


_put, _put_half = _make_put(False), _make_put(True)


@strict_kernel
def put(half: bool, source: int, target: int, step: int, count: int) -> None:
    """target[i * step] = source[i] for `count` float32 values; rounded to float16 where `half`."""
    if half:
        _put_half(source, target, step, count)
    else:
        _put(source, target, step, count)
