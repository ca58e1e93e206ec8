"""Packages of others that are measured where they are installed; where not, the benchmark says so."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from kernel_bench.problem import Absent


def module(name: str) -> Any:
    """The module, or Absent."""
    if not torch.cuda.is_available():
        raise Absent("needs a GPU")
    found = _found(name)
    if isinstance(found, Absent):
        raise found
    return found


@cache
def _found(name: str) -> Any:
    """Tried once: a package that fails to import takes its time."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a package without its own dependencies fails in many ways
        return Absent(f"{name.split('.')[0]} cannot be imported: {type(error).__name__}: {error}"[:200])


def compiled(function: Callable[..., Any], *, worthwhile: bool) -> Callable[..., Any]:
    """torch.compile for one static shape; Absent for shapes that would only cost its minutes of compilation."""
    if not torch.cuda.is_available():
        raise Absent("torch.compile is measured on a GPU only")
    if not worthwhile:
        raise Absent("torch.compile is measured at batches of 1, 32 and 256 with 128256 tokens")
    return _compiled(function)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)
