"""Makes blocks.py importable, and compiles the kernels once, so that no test's own time includes the compiler's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ["TRITON_INTERPRET"] = "1"  # before triton loads
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before numba loads: endless spinning starves busy machines


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    from topmast_kernels.cpu import cache, compile

    compile.load_all()
    cache.mark_complete()


@pytest.fixture(scope="session", autouse=True)
def fast_interpreter() -> None:
    import quick_interpreter

    quick_interpreter.install()
