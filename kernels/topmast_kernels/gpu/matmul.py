"""Products with weights stored as int8 or fp8, for the few rows of a decode batch: reading weights is all the work.

A program multiplies 64 outputs by 32 rows over one stretch of the depth. The stored numbers become 16-bit floats in
registers, which is exact, and are the left operand, so that few rows still fill the tensor cores' tile. The depth is
cut by the weight's shape alone, stretches are added in order by whoever comes last, and rows are always taken by 32: so
a row's bits are the same in every batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from topmast_kernels.gpu.common import INTERPRET, dot, narrow
from topmast_kernels.gpu.compile_table import FP8_CAPABILITY, Case, meta, name
from topmast_kernels.gpu.workspace import arrive
from topmast_kernels.twin.matmul import QuantisedWeight, check_matmul

ROWS = 32
OUTPUTS = 64
DEPTH = 128
PROGRAMS = 264  # two for each of an H200's 132 multiprocessors; fixed, because it decides how the depth is cut
SHORTEST = 512  # a shorter stretch has too few loads in flight


@dataclass(frozen=True)
class MatmulWorkspace:
    """For one call at a time. partials: fp32, flat. arrivals: int32 [tiles], zero between calls."""

    partials: Tensor
    arrivals: Tensor

    @classmethod
    def make(cls, rows: int, outputs: int, depth: int, device: torch.device | str) -> MatmulWorkspace:
        """Large enough for products of up to `rows` rows with weights [outputs, depth]."""
        stretches = triton.cdiv(depth, stretch_length(outputs, depth))
        tiles = triton.cdiv(rows, ROWS) * triton.cdiv(outputs, OUTPUTS)
        size = stretches * rows * outputs if stretches > 1 else 0
        partials = torch.empty(size, dtype=torch.float32, device=device)
        return cls(partials, torch.zeros(tiles, dtype=torch.int32, device=device))


def stretch_length(outputs: int, depth: int) -> int:
    """How much of the depth one program sums up: a function of the weight's shape only."""
    stretches = min(triton.cdiv(PROGRAMS, triton.cdiv(outputs, OUTPUTS)), triton.cdiv(depth, SHORTEST))
    return int(triton.cdiv(triton.cdiv(depth, stretches), DEPTH) * DEPTH)


@triton.jit
def _finish(total, scales, bias, out, out_stride, output, row, inside, outputs):
    """fp32 [outputs, rows] sums, scaled and stored."""
    known = output < outputs
    total = total * tl.load(scales + output, mask=known, other=0.0)[:, None]
    if bias is not None:
        total += tl.load(bias + output, mask=known, other=0.0).to(tl.float32)[:, None]
    at = out + row.to(tl.int64)[None, :] * out_stride + output[:, None]
    tl.store(at, narrow(total, out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows"])  # the same machine code for every batch
def _matmul(
    x,
    numbers,
    scales,
    bias,
    out,
    partials,
    arrivals,
    rows,
    outputs,
    depth,
    x_stride,
    out_stride,
    length,
    STRETCHES: tl.constexpr,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    stretch = tl.program_id(1)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    step = tl.arange(0, DEPTH)
    inside = (output < outputs)[:, None] & (row < rows)[None, :]
    # Reading another output's weights beyond the last is harmless: its products are not stored.
    own = numbers + tl.minimum(output, outputs - 1).to(tl.int64)[:, None] * depth + step[None, :]
    other = x + tl.minimum(row, rows - 1).to(tl.int64)[None, :] * x_stride + step[:, None]
    total = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for start in range(stretch * length, tl.minimum((stretch + 1) * length, depth), DEPTH):
        if EVEN:
            weight = tl.load(own + start)
            value = tl.load(other + start)
        else:
            left = step < depth - start
            weight = tl.load(own + start, mask=left[None, :], other=0.0)
            value = tl.load(other + start, mask=left[:, None], other=0.0)
        total = dot(weight.to(tl.float32 if INTERPRET else value.dtype), value, total)
    if STRETCHES == 1:
        _finish(total, scales, bias, out, out_stride, output, row, inside, outputs)
    else:
        at = row.to(tl.int64)[None, :] * outputs + output[:, None]
        apart = rows.to(tl.int64) * outputs
        tl.store(partials + stretch * apart + at, total, mask=inside)
        tile = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
        if arrive(arrivals + tile, STRETCHES):
            total = tl.zeros((OUTPUTS, ROWS), tl.float32)
            for each in range(STRETCHES):
                # Past the first-level cache, which may hold what another call left there.
                total += tl.load(partials + each * apart + at, mask=inside, other=0.0, cache_modifier=".cg")
            _finish(total, scales, bias, out, out_stride, output, row, inside, outputs)


def matmul(
    x: Tensor,
    weight: QuantisedWeight,
    *,
    bias: Tensor | None = None,
    out: Tensor | None = None,
    workspace: MatmulWorkspace | None = None,
) -> Tensor:
    """`x @ (numbers * scales).T + bias`, products exact, sums in fp32, rounded once.

    x: [rows, depth] fp16 or bf16, any row stride. weight: [outputs, depth] int8 or fp8 e4m3 with a scale per output.
    bias: [outputs]. out: [rows, outputs], by default of x's type. Any number of rows is right; up to 32 read the
    weights once. fp8 needs compute capability 8.9. One launch; reads outputs * depth bytes, plus x once per 64 outputs
    (from the cache), plus 8 bytes per partial sum where the depth is cut. A row's bits do not depend on other rows.
    """
    check_matmul(x, weight, bias, out)
    if x.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"x is {x.dtype}; convert it to float16 or bfloat16")
    rows, (outputs, depth) = x.shape[0], weight.numbers.shape
    out = x.new_empty((rows, outputs)) if out is None else out
    if not rows or not outputs:
        return out
    workspace = MatmulWorkspace.make(rows, outputs, depth, x.device) if workspace is None else workspace
    length = stretch_length(outputs, depth)
    grid = (triton.cdiv(outputs, OUTPUTS), triton.cdiv(depth, length), triton.cdiv(rows, ROWS))
    partials = rows * outputs * grid[1] if grid[1] > 1 else 0
    if workspace.partials.numel() < partials or workspace.arrivals.numel() < grid[0] * grid[2]:
        raise ValueError(
            f"the workspace is too small for {rows} rows; MatmulWorkspace.make({rows}, {outputs}, {depth})"
        )
    _matmul[grid](
        x,
        weight.numbers,
        weight.scales,
        bias,
        out,
        workspace.partials,
        workspace.arrivals,
        rows,
        outputs,
        depth,
        x.stride(0),
        out.stride(0),
        length,
        STRETCHES=grid[1],
        EVEN=depth % DEPTH == 0,
        ROWS=ROWS,
        OUTPUTS=OUTPUTS,
        DEPTH=DEPTH,
        num_warps=4,
        num_stages=4,
        enable_fp_fusion=False,
    )
    return out


def compile_cases() -> Iterator[Case]:
    for stored, least in ((torch.int8, 80), (torch.float8_e4m3fn, FP8_CAPABILITY)):
        for dtype in (torch.float16, torch.bfloat16):
            for outputs, depth in ((4096, 4096), (151936, 1024))[: 1 if dtype == torch.float16 else 2]:
                weight = QuantisedWeight(meta((outputs, depth), stored), meta((outputs,), torch.float32))
                title = f"{name(dtype)} by {name(stored)} [{outputs}, {depth}]"
                yield Case(title, partial(matmul, meta((1, depth), dtype), weight), wide=("_matmul",), least=least)
