"""What a transformer layer needs around its large products: norm, rotation with cache write, gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernel_bench import rivals
from kernel_bench.problem import Call, Problem
from kernel_bench.verdict import judge_close
from topmast_kernels.gpu.norm import rms_norm
from topmast_kernels.gpu.rope import rope_and_cache
from topmast_kernels.gpu.silu import silu_mul
from topmast_kernels.paged_cache import PagedCache
from topmast_kernels.twin import norm as norm_twin
from topmast_kernels.twin import rope as rope_twin
from topmast_kernels.twin import silu as silu_twin

EPS = 1e-5
PAGE = 16


@dataclass(frozen=True)
class Widths:
    """Of a model with 8 billion weights, unless a test asks for less."""

    model: int = 4096
    gate: int = 14336
    heads: int = 32
    kv_heads: int = 8
    dim: int = 128


def problems(
    device: torch.device, tokens: tuple[int, ...] = (1, 32, 2048), widths: Widths | None = None
) -> Iterator[Problem]:
    widths = Widths() if widths is None else widths
    for n, rows in enumerate(tokens):
        yield _norm(device, rows, widths, n)
        yield _silu(device, rows, widths, n)
        yield _rope(device, rows, widths, n)


def random_bf16(device: torch.device, seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device).bfloat16()


def _norm(device: torch.device, rows: int, widths: Widths, weight: int) -> Problem:
    def make(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        x, residual = random_bf16(device, seed, 2, rows, widths.model)
        return x, residual, random_bf16(device, seed + 1, widths.model)

    def topmast(given: tuple[Tensor, Tensor, Tensor]) -> Call:
        x, residual, factor = given
        out, total = torch.empty_like(x), torch.empty_like(x)
        return lambda: tuple(rms_norm(x, factor, eps=EPS, residual=residual, out=out, new_residual=total))

    def chain(x: Tensor, residual: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        return torch.nn.functional.rms_norm(total, (total.shape[1],), factor, EPS), total

    def by_compiler(given: tuple[Tensor, Tensor, Tensor]) -> Call:
        return partial(rivals.compiled(chain, worthwhile=True), *given)

    def by_liger(given: tuple[Tensor, Tensor, Tensor]) -> Call:
        function = rivals.module("liger_kernel.transformers.functional").liger_fused_add_rms_norm
        return partial(function, given[0], given[1], given[2], EPS, in_place=False)

    def by_flashinfer(given: tuple[Tensor, Tensor, Tensor]) -> Call:
        # It works in place, so a replay would add again and again; that is no slower.
        function, x, total = rivals.module("flashinfer.norm").fused_add_rmsnorm, given[0].clone(), given[1].clone()

        def call() -> tuple[Tensor, Tensor]:
            function(x, total, given[2], EPS)
            return x, total

        return call

    def check(given: tuple[Tensor, Tensor, Tensor], call: Call) -> str | None:
        found = call()
        expected = norm_twin.rms_norm(given[0], given[2], eps=EPS, residual=given[1])
        return judge_close(found[0], expected.out, 1e-2) or judge_close(found[1], expected.residual, 1e-2)

    contestants = {
        "topmast": topmast,
        "torch": lambda given: partial(chain, *given),
        "torch.compile": by_compiler,
        "liger": by_liger,
        "flashinfer": by_flashinfer,
    }
    size: dict[str, int | str] = {"tokens": rows, "width": widths.model}
    return Problem("residual + norm", size, 4 * rows * widths.model * 2, make, contestants, check, weight)


def _silu(device: torch.device, rows: int, widths: Widths, weight: int) -> Problem:
    def make(seed: int) -> Tensor:
        return random_bf16(device, seed, rows, 2 * widths.gate)

    def topmast(given: Tensor) -> Call:
        return partial(silu_mul, given, out=given.new_empty((rows, widths.gate)))

    def chain(given: Tensor) -> Tensor:
        gate, up = given.chunk(2, dim=1)
        return torch.nn.functional.silu(gate) * up

    def by_compiler(given: Tensor) -> Call:
        return partial(rivals.compiled(chain, worthwhile=True), given)

    def by_liger(given: Tensor) -> Call:
        gate, up = (part.contiguous() for part in given.chunk(2, dim=1))
        return partial(rivals.module("liger_kernel.transformers.functional").liger_swiglu, gate, up)

    def by_flashinfer(given: Tensor) -> Call:
        return partial(rivals.module("flashinfer.activation").silu_and_mul, given)

    def check(given: Tensor, call: Call) -> str | None:
        return judge_close(call(), silu_twin.silu_mul(given), 1e-2)

    contestants: dict[str, Callable[[Tensor], Call]] = {
        "topmast": topmast,
        "torch": lambda given: partial(chain, given),
        "torch.compile": by_compiler,
        "liger": by_liger,
        "flashinfer": by_flashinfer,
    }
    size: dict[str, int | str] = {"tokens": rows, "width": widths.gate}
    return Problem("silu * up", size, 3 * rows * widths.gate * 2, make, contestants, check, weight)


def rope_table(positions: int, dim: int, device: torch.device) -> Tensor:
    """fp32 [positions, dim]: cosines, then sines, base 10000."""
    angles = torch.arange(positions)[:, None] / 10000.0 ** (torch.arange(0, dim, 2) / dim)
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(device)


@dataclass(frozen=True)
class Rotation:
    qkv: Tensor
    positions: Tensor
    table: Tensor
    slots: Tensor
    cache: PagedCache


def _rope(device: torch.device, rows: int, widths: Widths, weight: int) -> Problem:
    heads, kv_heads, dim = widths.heads, widths.kv_heads, widths.dim
    table = rope_table(4096, dim, device)

    def make(seed: int) -> Rotation:
        pages = 2 * rows // PAGE + 2
        store = torch.zeros(2, pages, PAGE, kv_heads, dim, dtype=torch.bfloat16, device=device)
        generator = torch.Generator().manual_seed(seed)
        slots = torch.randperm(pages * PAGE, generator=generator)[:rows].to(device)
        positions = torch.randint(4096, (rows,), generator=generator, dtype=torch.int32).to(device)
        qkv = random_bf16(device, seed, rows, (heads + 2 * kv_heads) * dim)
        return Rotation(qkv, positions, table, slots, PagedCache(store[0], store[1]))

    def topmast(given: Rotation) -> Call:
        out = given.qkv.new_empty((rows, heads, dim))
        arguments = (given.qkv, given.positions, given.table, given.slots, given.cache)

        def call() -> tuple[Tensor, PagedCache]:
            return rope_and_cache(*arguments, heads=heads, out=out), given.cache

        return call

    def chain(given: Rotation) -> tuple[Tensor, PagedCache]:
        parts = given.qkv.view(rows, heads + 2 * kv_heads, dim)
        angles = given.table[given.positions][:, None].to(given.qkv.dtype)
        cos, sin = angles.chunk(2, dim=2)
        low, high = parts[:, : heads + kv_heads].chunk(2, dim=2)
        turned = torch.cat([low * cos - high * sin, high * cos + low * sin], dim=2)
        given.cache.keys.view(-1, kv_heads, dim).index_copy_(0, given.slots, turned[:, heads:])
        given.cache.values.view(-1, kv_heads, dim).index_copy_(0, given.slots, parts[:, heads + kv_heads :])
        return turned[:, :heads], given.cache

    def by_compiler(given: Rotation) -> Call:
        return partial(rivals.compiled(chain, worthwhile=True), given)

    def check(given: Rotation, call: Call) -> str | None:
        given.cache.keys.zero_()
        given.cache.values.zero_()
        found = call()
        queries, keys = found[0].clone(), found[1].keys.clone().flatten(1)
        values = found[1].values.clone()
        expected = rope_twin.rope_and_cache(
            given.qkv, given.positions, given.table, given.slots, given.cache, heads=heads
        )
        used = given.cache.keys.flatten(1).any(dim=1)
        if not torch.equal(values, given.cache.values):
            return "the values in the cache are not those of qkv"
        wrong = judge_close(keys[used], given.cache.keys.flatten(1)[used], 2e-2)
        return wrong or judge_close(queries, expected, 2e-2)

    contestants = {"topmast": topmast, "torch": lambda given: partial(chain, given), "torch.compile": by_compiler}
    size: dict[str, int | str] = {"tokens": rows, "heads": heads, "kv heads": kv_heads, "lanes": dim}
    return Problem("rope + cache", size, 4 * rows * (heads + 2 * kv_heads) * dim, make, contestants, check, weight)
