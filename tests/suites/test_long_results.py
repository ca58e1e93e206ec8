"""A long test's result is kept with all that one needs to believe it, and only if the test has passed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
def test_that_passes(record): record["requests"] = 7
def test_that_fails(record):
    record["requests"] = 8
    assert False
"""


def test_who_passes_leaves_a_result_with_machine_commit_and_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_long.py").write_text(TESTS)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--results", "results", "test_long.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    (path,) = (tmp_path / "results").iterdir()
    assert path.name.startswith("long-that-passes-")
    result = json.loads(path.read_text())
    assert result["test"] == "test_long.py::test_that_passes" and result["figures"] == {"requests": 7}
    assert result["seconds"] >= 0 and result["machine"]["cores"] >= 1
    assert re.fullmatch(r"[0-9a-f]{7,}\+?", result["machine"]["commit"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", result["machine"]["at"])
