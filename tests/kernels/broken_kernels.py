"""Kernels that the compile check must not let pass; a module of the form it reads, compiled by test_gpu_compile.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from topmast_kernels.gpu.compile_table import Case, meta


@triton.jit
def spills(x, BLOCK: tl.constexpr):
    """One warp holds far more values than it has registers, because all are needed twice."""
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at)
    tl.store(x + at, value / tl.sum(value))


@triton.jit
def loads_narrowly(x, stride, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(x + at, tl.load(x + at * stride))


@triton.jit
def forgotten(x):
    tl.store(x, 0)


def start_spills(x: Tensor) -> None:
    spills[(1,)](x, BLOCK=16384, num_warps=1)


def start_loads_narrowly(x: Tensor) -> None:
    loads_narrowly[(1,)](x, 3, BLOCK=1024)


def start_forgotten(x: Tensor) -> None:
    forgotten[(1,)](x)


def looks_at_a_number(x: Tensor) -> None:
    if x[0] > 0:
        start_spills(x)


def compile_cases() -> Iterator[Case]:
    x = meta((16384,), torch.float32)
    yield Case("spills", partial(start_spills, x))
    yield Case("narrow", partial(start_loads_narrowly, x), wide=("loads_narrowly",))
    yield Case("looks", partial(looks_at_a_number, x))
    yield Case("nothing", lambda: None, wide=("forgotten",))
