"""Makes blocks.py importable, and compiles the kernels once, so that no test's own time includes the compiler's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    from topmast_kernels.cpu import cache, compile

    compile.load_all()
    cache.mark_complete()
