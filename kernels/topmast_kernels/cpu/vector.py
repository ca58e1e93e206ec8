"""The innermost loops, written as LLVM vector code: decode blocks of weights, and multiply tiles of rows.

Plain loops were three times slower: LLVM reduces each block to a scalar before it scales it. These vectors are
generic; LLVM lowers them to AVX2, AVX-512, NEON or whatever there is. Addresses are integers, lengths in elements.
The sum over K runs in one fixed order per output, so a result does not depend on how many rows are computed with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from topmast_kernels.cpu.formats import BLOCK, BLOCK_BYTES, Format
from topmast_kernels.cpu.jit import LANES, ROW_TILE

_F32, _F16 = ir.FloatType(), ir.HalfType()
_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_F32, LANES)
_ZERO = ir.Constant(_VECTOR, [0.0] * LANES)
_PARTS = BLOCK // LANES  # vectors per block


def _const(value: int) -> Any:
    return ir.Constant(_I64, value)


def _load(builder: Any, address: Any, kind: Any) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = 1


def _at(builder: Any, address: Any, count: Any, size: int) -> Any:
    return builder.add(address, builder.mul(count, _const(size)))


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    signature = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.v{LANES}f32")
    return builder.call(function, [a, b, c])


def _sum(builder: Any, vector: Any) -> Any:
    lanes = LANES
    while lanes > 1:
        half = lanes // 2
        low = ir.Constant(ir.VectorType(_I32, half), list(range(half)))
        high = ir.Constant(ir.VectorType(_I32, half), list(range(half, lanes)))
        vector = builder.fadd(builder.shuffle_vector(vector, vector, low), builder.shuffle_vector(vector, vector, high))
        lanes = half
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def _decode_block(builder: Any, kind: Format, address: Any) -> list[Any]:
    """One block as float32 vectors."""
    if kind is Format.F32:
        return [_load(builder, builder.add(address, _const(part * LANES * 4)), _VECTOR) for part in range(_PARTS)]
    scale = _splat(builder, builder.fpext(_load(builder, address, _F16), _F32))
    packed_at = BLOCK_BYTES[kind] - (32 if kind is Format.Q8_0 else 16)
    weights = []
    for part in range(_PARTS):
        bytes_kind = ir.VectorType(_I8, LANES)
        if kind is Format.Q8_0:
            packed = _load(builder, builder.add(address, _const(packed_at + part * LANES)), bytes_kind)
            wide = builder.sext(packed, ir.VectorType(_I32, LANES))
        else:
            first = part * LANES
            packed = _load(builder, builder.add(address, _const(packed_at + first % 16)), bytes_kind)
            shift, mask = (ir.Constant(bytes_kind, [n] * LANES) for n in (4, 15))
            nibbles = builder.lshr(packed, shift) if first >= 16 else builder.and_(packed, mask)
            wide = builder.zext(nibbles, ir.VectorType(_I32, LANES))
            if kind is Format.Q4_0:
                wide = builder.sub(wide, ir.Constant(ir.VectorType(_I32, LANES), [8] * LANES))
        value = builder.fmul(builder.sitofp(wide, _VECTOR), scale)
        if kind is Format.Q4_1:
            half_minimum = _load(builder, builder.add(address, _const(2)), _F16)
            value = builder.fadd(value, _splat(builder, builder.fpext(half_minimum, _F32)))
        weights.append(value)
    return weights


def _make_dot(kind: Format, rows: int) -> Callable[..., None]:
    @intrinsic  # type: ignore[untyped-decorator]
    def dot(_typing: Any, weights: Any, row_bytes: Any, x: Any, out: Any, columns: Any) -> Any:
        """out[r] = weights[r] . x for `rows` rows; all addresses; `columns` is a multiple of 32."""
        signature = types.void(types.int64, types.int64, types.int64, types.int64, types.int64)

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            weights, row_bytes, x, out, columns = arguments
            sums = [cgutils.alloca_once_value(builder, _ZERO) for _ in range(rows)]
            for total in sums:
                builder.store(_ZERO, total)
            with cgutils.for_range(builder, builder.udiv(columns, _const(BLOCK))) as loop:
                x_block = _at(builder, x, loop.index, BLOCK * 4)
                xs = [_load(builder, builder.add(x_block, _const(part * LANES * 4)), _VECTOR) for part in range(_PARTS)]
                block = _at(builder, weights, loop.index, BLOCK_BYTES[kind])
                for row, total in enumerate(sums):
                    address = builder.add(block, builder.mul(row_bytes, _const(row)))
                    value = builder.load(total)
                    for weight, x_part in zip(_decode_block(builder, kind, address), xs, strict=True):
                        value = _fma(builder, weight, x_part, value)
                    builder.store(value, total)
            for row, total in enumerate(sums):
                _store(builder, _sum(builder, builder.load(total)), builder.add(out, _const(row * 4)))
            return context.get_dummy_value()

        return signature, generate

    return dot  # type: ignore[no-any-return]


def _make_decode(kind: Format) -> Callable[..., None]:
    @intrinsic  # type: ignore[untyped-decorator]
    def decode(_typing: Any, weights: Any, out: Any, blocks: Any) -> Any:
        """Write `blocks` blocks as float32, one after another."""
        signature = types.void(types.int64, types.int64, types.int64)

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            weights, out, blocks = arguments
            with cgutils.for_range(builder, blocks) as loop:
                target = _at(builder, out, loop.index, BLOCK * 4)
                address = _at(builder, weights, loop.index, BLOCK_BYTES[kind])
                for part, value in enumerate(_decode_block(builder, kind, address)):
                    _store(builder, value, builder.add(target, _const(part * LANES * 4)))
            return context.get_dummy_value()

        return signature, generate

    return decode  # type: ignore[no-any-return]


def make_tile(batch: int) -> Callable[..., None]:
    """A tile of ROW_TILE weight rows by `batch` rows of x, with all sums in registers."""

    @intrinsic  # type: ignore[untyped-decorator]
    def tile(_typing: Any, weights: Any, x: Any, x_stride: Any, out: Any, out_stride: Any, columns: Any) -> Any:
        """out[b, r] = weights[r] . x[b] in float32; weight rows are adjacent; strides in elements."""
        signature = types.void(*[types.int64] * 6)

        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            weights, x, x_stride, out, out_stride, columns = arguments
            sums = [[cgutils.alloca_once_value(builder, _ZERO) for _ in range(batch)] for _ in range(ROW_TILE)]
            for row in sums:
                for total in row:
                    builder.store(_ZERO, total)
            with cgutils.for_range(builder, builder.udiv(columns, _const(LANES))) as loop:
                offset = builder.mul(loop.index, _const(LANES * 4))
                x_rows = [_at(builder, x, builder.mul(x_stride, _const(b)), 4) for b in range(batch)]
                xs = [_load(builder, builder.add(address, offset), _VECTOR) for address in x_rows]
                for r, row in enumerate(sums):
                    address = _at(builder, weights, builder.mul(columns, _const(r)), 4)
                    weight = _load(builder, builder.add(address, offset), _VECTOR)
                    for x_part, total in zip(xs, row, strict=True):
                        builder.store(_fma(builder, weight, x_part, builder.load(total)), total)
            for b in range(batch):
                target = _at(builder, out, builder.mul(out_stride, _const(b)), 4)
                for r in range(ROW_TILE):
                    _store(builder, _sum(builder, builder.load(sums[r][b])), builder.add(target, _const(r * 4)))
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]


dot_f32 = _make_dot(Format.F32, ROW_TILE)
dot_q4_0 = _make_dot(Format.Q4_0, ROW_TILE)
dot_q4_1 = _make_dot(Format.Q4_1, ROW_TILE)
dot_q8_0 = _make_dot(Format.Q8_0, ROW_TILE)
decode_q4_0 = _make_decode(Format.Q4_0)
decode_q4_1 = _make_decode(Format.Q4_1)
decode_q8_0 = _make_decode(Format.Q8_0)
