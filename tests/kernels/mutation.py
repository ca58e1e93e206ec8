"""Shows that a test can fail: a bug is put into a copy of the package, and a check that passes must fail on it.

    MUTATIONS = [Mutation("the last block is left out", "gpu/stats.py", "block < blocks", "block < blocks - 1", check)]

    @pytest.mark.parametrize("mutation", MUTATIONS, ids=str)
    def test_a_bug_is_found(mutation: Mutation, tmp_path: Path) -> None:
        assert_found(mutation, tmp_path)

A check is a function of `load`, which imports a module of the package by its name below `topmast_kernels` and gives the
one with the bug while there is one: `load("gpu.stats").stats(...)`. It asserts; other exceptions do not count as found.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

import topmast_kernels

PACKAGE = topmast_kernels.__name__
Load = Callable[[str], ModuleType]
Check = Callable[[Load], None]


@dataclass(frozen=True)
class Mutation:
    """`old`, which stands exactly once in `file` of the package, becomes `new`; `check` must find it."""

    bug: str
    file: str
    old: str
    new: str
    check: Check

    def __str__(self) -> str:
        return self.bug


def load(module: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{module}")


@contextmanager
def mutated(mutation: Mutation, folder: Path) -> Iterator[None]:
    """Imports of the package give a copy of it with the bug, in `folder`; afterwards all is as it was."""
    copy = folder / PACKAGE
    source = Path(topmast_kernels.__file__).parent
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc"))
    text = (copy / mutation.file).read_text()
    assert text.count(mutation.old) == 1, f"{mutation.old!r} stands {text.count(mutation.old)} times in {mutation.file}"
    (copy / mutation.file).write_text(text.replace(mutation.old, mutation.new))

    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == PACKAGE}
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
            del sys.modules[name]
        sys.modules.update(ours)


def assert_found(mutation: Mutation, folder: Path) -> None:
    """The check passes on the package as it is and fails on the one with the bug.

    New memory is no number meanwhile: what a bug leaves unwritten could be what the check before it wrote there.
    """
    mutation.check(load)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with mutated(mutation, folder):
            assert Path(str(load("gpu").__file__)).is_relative_to(folder)
            with pytest.raises(AssertionError):
                mutation.check(load)
    finally:
        torch.use_deterministic_algorithms(False)
