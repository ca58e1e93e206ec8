"""Which kernels are compiled ahead of time, for which dtypes and configurations: a table that every module adds to.

A module with kernels defines `compile_cases()`, which yields one `Case` per configuration that matters:

    def compile_cases() -> Iterator[Case]:
        for dtype in FLOATS:
            x, out = meta((8, 4096), dtype), meta((8, 4096), dtype)
            yield Case(f"softmax {name(dtype)}", partial(softmax, x, out=out), wide=("_normalise",))

A case calls the public wrapper with tensors on the meta device. So what is compiled is what a GPU would be given, with
the same specialisation of arguments, and a wrapper that looks at a tensor's values (which would wait for the GPU and
could not be captured in a graph) fails here. `wide` names kernels that must load 16 bytes per instruction. `block` and
the like stay at their defaults: the table is about what runs in production. Few shapes are enough: a second vocabulary
that compiles the same code costs time and finds nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from triton.runtime import KernelInterface

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
FP8_CAPABILITY = 89  # the first that knows fp8 e4m3


@dataclass(frozen=True)
class Case:
    """One configuration. `title` is unique within its module; `least` is the compute capability that it needs."""

    title: str
    call: Callable[[], object]
    wide: tuple[str, ...] = ()
    least: int = 80


def meta(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor without memory, aligned like a fresh one on a GPU."""
    return torch.empty(shape, dtype=dtype, device="meta")


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def kernel_modules() -> list[str]:
    """Names of the modules of this package, in alphabetical order."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(module.name for module in found if not module.name.startswith("compile_"))


def load(module: str) -> ModuleType:
    return importlib.import_module(f"{__name__.rpartition('.')[0]}.{module}")


def launched_kernels(module: ModuleType) -> set[str]:
    """Names of the GPU functions that `module` starts itself, as in `_kernel[grid](...)`, without their helpers."""
    text = Path(str(module.__file__)).read_text()
    functions = {key for key, value in vars(module).items() if isinstance(value, KernelInterface)}
    return functions & set(re.findall(r"\b(\w+)\[", text))


def cases_of(module: ModuleType, capability: int) -> Iterator[Case]:
    """What a GPU of `capability` (90 for an H100 or H200) can run of `module`."""
    listed = getattr(module, "compile_cases", None)
    if listed is not None:
        yield from (case for case in listed() if case.least <= capability)
