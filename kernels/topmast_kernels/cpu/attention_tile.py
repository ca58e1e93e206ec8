"""The innermost loops of attention: a small matrix product, the softmax of a row of scores, and joining two parts.

The product serves both halves: scores are queries times stored keys (which lie transposed), answers are probabilities
times stored values. Every sum runs in the order of its index, so an element's bits do not depend on the tile around it.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils

from topmast_kernels.cpu.jit import LANES
from topmast_kernels.cpu.native import Body, link
from topmast_kernels.cpu.simd import Simd, strict_kernel
from topmast_kernels.cpu.vector import const

_WIDE = 4 if LANES == 16 else 2  # vectors of one row whose sums live in registers: 6 x 4 of 32, or 6 x 2 of 16
_FULL = 6  # rows likewise
_LINE = 64  # bytes of a cache line
_MINUS_INFINITY = float("-inf")


def _make_product(rows: int, half: bool) -> Body:
    """out[r, c] = (out[r, c] where `add`) + sum over `count` k of a[r, k] b[k, c] for `columns` c; strides in elements.

    What lies `ahead` bytes further on than b is fetched meanwhile.
    """
    size = 2 if half else 4

    def tile(
        simd: Simd,
        vectors: int,
        a_rows: list[Any],
        b: Any,
        b_step: Any,
        count: Any,
        outs: list[Any],
        ahead: Any,
        adds: Any,
    ) -> None:
        builder = simd.builder
        places = [[builder.add(out, const(v * LANES * 4)) for v in range(vectors)] for out in outs]
        sums = [[cgutils.alloca_once(builder, simd.kind) for _ in row] for row in places]
        for row, targets in zip(places, sums, strict=True):
            for place, total in zip(row, targets, strict=True):
                builder.store(builder.select(adds, simd.load(place), simd.constant(0.0)), total)
        with cgutils.for_range(builder, count) as loop:
            line = builder.add(b, builder.mul(b_step, loop.index))
            if rows < _FULL:  # many rows share what the first of them has loaded
                for offset in range(0, vectors * LANES * size, _LINE):
                    simd.prefetch(builder.add(builder.add(line, ahead), const(offset)))
            parts = [simd.load(builder.add(line, const(v * LANES * size)), half=half) for v in range(vectors)]
            for address, targets in zip(a_rows, sums, strict=True):
                factor = simd.splat(simd.load_one(simd.at(address, loop.index, 4)))
                for part, total in zip(parts, targets, strict=True):
                    builder.store(simd.fma(factor, part, builder.load(total)), total)
        for row, targets in zip(places, sums, strict=True):
            for place, total in zip(row, targets, strict=True):
                simd.store(builder.load(total), place)

    def body(
        builder: Any,
        a: Any,
        a_stride: Any,
        b: Any,
        b_stride: Any,
        count: Any,
        out: Any,
        out_stride: Any,
        columns: Any,
        add: Any,
        ahead: Any,
    ) -> None:
        simd = Simd(builder)
        a_rows = [simd.at(a, builder.mul(a_stride, const(r)), 4) for r in range(rows)]
        out_rows = [simd.at(out, builder.mul(out_stride, const(r)), 4) for r in range(rows)]
        adds, b_step = builder.icmp_signed("!=", add, const(0)), builder.mul(b_stride, const(size))
        done: Any = const(0)
        for vectors in sorted({_WIDE, 2, 1}, reverse=True):
            tiles = builder.udiv(builder.sub(columns, done), const(vectors * LANES))
            with cgutils.for_range(builder, tiles) as loop:
                first = builder.add(done, builder.mul(loop.index, const(vectors * LANES)))
                outs = [simd.at(row, first, 4) for row in out_rows]
                tile(simd, vectors, a_rows, simd.at(b, first, size), b_step, count, outs, ahead, adds)
            done = builder.add(done, builder.mul(tiles, const(vectors * LANES)))

    return body


def _softmax(builder: Any, scores: Any, valid: Any, padded: Any, state: Any) -> None:
    """scores[:valid] become 2^(score - best), the rest up to `padded` (a multiple of LANES) 0; state = best, sum.

    A NaN score makes the sum NaN; the entries beyond `valid` may be anything before.
    """
    simd = Simd(builder)
    vectors = builder.udiv(padded, const(LANES))
    best, total = (cgutils.alloca_once(builder, simd.kind) for _ in range(2))
    builder.store(simd.constant(_MINUS_INFINITY), best)
    builder.store(simd.constant(0.0), total)
    with cgutils.for_range(builder, vectors) as loop:
        mask = simd.below(builder.mul(loop.index, const(LANES)), valid)
        score = simd.load(simd.at(scores, loop.index, LANES * 4))
        seen = builder.select(mask, score, simd.constant(_MINUS_INFINITY))
        builder.store(simd.maximum(seen, builder.load(best)), best)
    most = simd.fold(builder.load(best), simd.maximum)
    with cgutils.for_range(builder, vectors) as loop:
        mask = simd.below(builder.mul(loop.index, const(LANES)), valid)
        place = simd.at(scores, loop.index, LANES * 4)
        weight = simd.exp2(builder.fsub(simd.load(place), simd.splat(most)))
        weight = builder.select(mask, weight, simd.constant(0.0))
        simd.store(weight, place)
        builder.store(builder.fadd(builder.load(total), weight), total)
    simd.store(most, state)
    simd.store(simd.fold(builder.load(total), builder.fadd), builder.add(state, const(4)))


def _join(builder: Any, answer: Any, state: Any, part: Any, part_state: Any, width: Any) -> None:
    """Add a later part's sum of weighted values [width] to `answer`, both relative to their own best score.

    A state is (best, sum of weights), and (-infinity, 0) with zeros for nothing yet: the first part is taken as it is.
    """
    simd = Simd(builder)
    mine, theirs = simd.load_one(state), simd.load_one(part_state)
    best = simd.maximum(mine, theirs)
    factors = [simd.exp2(simd.splat(builder.fsub(one, best))) for one in (mine, theirs)]
    first, second = (simd.first(factor) for factor in factors)
    sums = [simd.load_one(builder.add(one, const(4))) for one in (state, part_state)]
    simd.store(best, state)
    simd.store(simd.fma(sums[1], second, builder.fmul(sums[0], first)), builder.add(state, const(4)))
    with cgutils.for_range(builder, builder.udiv(width, const(LANES))) as loop:
        place = simd.at(answer, loop.index, LANES * 4)
        value = builder.fmul(simd.load(place), factors[0])
        simd.store(simd.fma(simd.load(simd.at(part, loop.index, LANES * 4)), factors[1], value), place)


def _divide(builder: Any, values: Any, by: Any, out: Any, width: Any) -> None:
    """out[:width] = values / the float32 at address `by`."""
    simd = Simd(builder)
    factor = builder.fdiv(simd.constant(1.0), simd.splat(simd.load_one(by)))
    with cgutils.for_range(builder, builder.udiv(width, const(LANES))) as loop:
        value = builder.fmul(simd.load(simd.at(values, loop.index, LANES * 4)), factor)
        simd.store(value, simd.at(out, loop.index, LANES * 4))


def _make_put(half: bool) -> Body:
    def put(builder: Any, source: Any, target: Any, step: Any, count: Any) -> None:
        """target[i * step] = source[i] for `count` float32 values; float16 there where `half`."""
        simd = Simd(builder)
        with cgutils.for_range(builder, count) as loop:
            place = simd.at(target, builder.mul(loop.index, step), 2 if half else 4)
            simd.store(simd.load_one(simd.at(source, loop.index, 4)), place, half=half)

    return put


_BODIES: dict[str, tuple[int, Body]] = {
    "attention_softmax": (4, _softmax),
    "attention_join": (5, _join),
    "attention_divide": (4, _divide),
    "attention_put": (4, _make_put(False)),
    "attention_put_half": (4, _make_put(True)),
}
for _rows in (_FULL, 3, 2, 1):
    _BODIES[f"attention_product_{_rows}"] = (10, _make_product(_rows, False))
    _BODIES[f"attention_product_{_rows}_half"] = (10, _make_product(_rows, True))
_functions = link(_BODIES)
softmax_row, join, divide = (_functions[f"attention_{name}"] for name in ("softmax", "join", "divide"))
_put, _put_half = _functions["attention_put"], _functions["attention_put_half"]
_six, _three, _two, _one = (_functions[f"attention_product_{rows}"] for rows in (_FULL, 3, 2, 1))
_six_half, _three_half, _two_half, _one_half = (
    _functions[f"attention_product_{rows}_half"] for rows in (_FULL, 3, 2, 1)
)


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

    Addresses, and strides in elements; b is float16 where `half`, all else float32; `columns` is a multiple of LANES.
    What lies `ahead` bytes further on than b is fetched meanwhile.
    """
    row = 0
    while row < rows:
        left = rows - row
        step = _FULL if left >= _FULL else min(left, 3)
        source, target = a + row * a_stride * 4, out + row * out_stride * 4
        if half:
            if step == _FULL:
                _six_half(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
            elif step == 3:
                _three_half(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
            elif step == 2:
                _two_half(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
            else:
                _one_half(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
        elif step == _FULL:
            _six(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
        elif step == 3:
            _three(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
        elif step == 2:
            _two(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
        else:
            _one(source, a_stride, b, b_stride, count, target, out_stride, columns, add, ahead)
        row += step


@strict_kernel
def put(half: bool, source: int, target: int, step: int, count: int) -> None:
    """target[i * step] = source[i] for `count` float32 values; rounded to float16 where `half`."""
    if half:
        _put_half(source, target, step, count)
    else:
        _put(source, target, step, count)
