"""Given their memory, the wrappers only start kernels: nothing that a CUDA graph could not hold, and no allocation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

BENCH = Path(__file__).parents[2] / "bench"


class Recorder(TorchDispatchMode):
    """Names of torch's operations that make memory of their own or look at a number."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not function.is_view:
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@contextmanager
def nothing_started(kinds: set[type]) -> Iterator[list[str]]:
    """Kernels are not run, only named."""
    names: list[str] = []
    original = {kind: kind.__getitem__ for kind in kinds}  # type: ignore[attr-defined]

    def named(self: Any, grid: Any) -> Any:
        names.append(self.fn.__name__)
        return lambda *args, **options: None

    for kind in kinds:
        kind.__getitem__ = named  # type: ignore[attr-defined]
    try:
        yield names
    finally:
        for kind, function in original.items():
            kind.__getitem__ = function  # type: ignore[attr-defined]


def test_the_benchmarks_calls_allocate_nothing_and_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    from kernel_bench import coverage, run

    kernels = coverage.all_kernels()
    operations = 0
    for problem in run.tiny_problems(torch.device("cpu")):
        call = problem.contestants["topmast"](problem.make(0))
        with nothing_started({type(kernel) for kernel in kernels.values()}) as names, Recorder() as recorder:
            call()
        assert names, f"{problem.operation} starts no kernel"
        assert recorder.seen == [], f"{problem.operation} {problem.size}"
        operations += 1
    assert operations > 14


def test_an_allocation_would_be_seen() -> None:
    with Recorder() as recorder:
        x = torch.empty(3)
        x.view(1, 3)
        x.sum().item()
    assert [name.split(".")[1] for name in recorder.seen] == ["empty", "sum", "_local_scalar_dense"]
