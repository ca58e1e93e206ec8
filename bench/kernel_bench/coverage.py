"""Which kernels ran, so that the tiny runs can say which ones they left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from topmast_kernels.gpu import compile_table


def all_kernels() -> dict[str, Any]:
    """Every function for the GPU that a module of the package starts itself, by module and name."""
    modules = {name: compile_table.load(name) for name in compile_table.kernel_modules()}
    return {
        f"{name}.{kernel}": getattr(module, kernel)
        for name, module in modules.items()
        for kernel in compile_table.launched_kernels(module)
    }


@contextmanager
def started() -> Iterator[set[str]]:
    """The names of the kernels that are started while this lasts; compiled and interpreted ones alike."""
    known = {id(kernel.fn): name for name, kernel in all_kernels().items()}
    kinds = {type(kernel) for kernel in all_kernels().values()}
    names: set[str] = set()
    original = {kind: kind.__getitem__ for kind in kinds}

    def watched(for_grid: Any) -> Any:
        def noted(self: Any, grid: Any) -> Any:
            names.add(known.get(id(self.fn), ""))
            return for_grid(self, grid)

        return noted

    for kind in kinds:
        kind.__getitem__ = watched(original[kind])
    try:
        yield names
    finally:
        for kind in kinds:
            kind.__getitem__ = original[kind]
