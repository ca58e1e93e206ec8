"""Products with int8 and fp8 weights, beside torch's own and beside the product with the bf16 weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from kernel_bench import rivals
from kernel_bench.layers import Widths, random_bf16
from kernel_bench.problem import Absent, Call, Problem
from kernel_bench.verdict import judge_close
from topmast_kernels.gpu.matmul import MatmulWorkspace, matmul
from topmast_kernels.twin import matmul as matmul_twin
from topmast_kernels.twin.matmul import QuantisedWeight


def problems(
    device: torch.device, batches: tuple[int, ...] = (1, 8, 32), widths: Widths | None = None
) -> Iterator[Problem]:
    for n, rows in enumerate(batches):
        for kind in ("int8", "fp8"):
            yield _product(device, rows, Widths() if widths is None else widths, kind, n)


def _product(device: torch.device, rows: int, widths: Widths, kind: str, weight: int) -> Problem:
    outputs, depth = 2 * widths.gate, widths.model
    stored = torch.int8 if kind == "int8" else torch.float8_e4m3fn

    def make(seed: int) -> tuple[Tensor, Tensor, QuantisedWeight]:
        dense = random_bf16(device, seed, outputs, depth)
        return random_bf16(device, seed + 1, rows, depth), dense, QuantisedWeight.of(dense, stored)

    def topmast(given: tuple[Tensor, Tensor, QuantisedWeight]) -> Call:
        out = given[0].new_empty((rows, outputs))
        workspace = MatmulWorkspace.make(rows, outputs, depth, device)
        return partial(matmul, given[0], given[2], out=out, workspace=workspace)

    def dense_product(given: tuple[Tensor, Tensor, QuantisedWeight]) -> Call:
        return partial(torch.nn.functional.linear, given[0], given[1])

    def dequantised(x: Tensor, numbers: Tensor, scales: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, numbers.to(x.dtype)) * scales.to(x.dtype)

    def by_compiler(given: tuple[Tensor, Tensor, QuantisedWeight]) -> Call:
        function = rivals.compiled(dequantised, worthwhile=True)
        return partial(function, given[0], given[2].numbers, given[2].scales)

    def by_torch_int8(given: tuple[Tensor, Tensor, QuantisedWeight]) -> Call:
        if kind != "int8" or device.type != "cuda":
            raise Absent("torch has this for int8 on a GPU only")
        scales = given[2].scales.to(given[0].dtype)
        return partial(torch._weight_int8pack_mm, given[0], given[2].numbers, scales)

    def check(given: tuple[Tensor, Tensor, QuantisedWeight], call: Call) -> str | None:
        expected = matmul_twin.matmul(given[0], given[2])
        return judge_close(call(), expected, 5e-2)  # the dense product has the unquantised weights

    contestants = {
        "topmast": topmast,
        "torch, bf16 weights": dense_product,
        "torch.compile, dequantised": by_compiler,
        "torch int8pack": by_torch_int8,
    }
    size: dict[str, int | str] = {"tokens": rows, "outputs": outputs, "depth": depth, "weights": kind}
    moved = outputs * depth + rows * (outputs + depth) * 2
    return Problem("weight-only product", size, moved, make, contestants, check, weight)
