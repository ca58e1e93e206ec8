"""Makes blocks.py importable, and compiles the kernels once, so that no test's own time includes the compiler's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ["TRITON_INTERPRET"] = "1"  # before triton loads
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before numba loads: endless spinning starves busy machines
# A machine that stands still for a moment says nothing about the code under test.
hypothesis.settings.register_profile("kernels", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("kernels")


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    from topmast_kernels.cpu import cache, compile

    compile.load_all()
    cache.mark_complete()


@pytest.fixture(scope="session", autouse=True)
def interpreter() -> None:
    """Fast, and with the same bits on every CPU."""
    import ordered_products
    import quick_interpreter

    quick_interpreter.install()
    ordered_products.install()
