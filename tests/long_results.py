"""Results of long tests: what was found, on which machine, of which commit, when. They are committed in bench/results.

A result is written when a test is over, and only if it has passed: a file there is a promise that was kept.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


def write_result(folder: Path, test: str, seconds: float, figures: Mapping[str, Any]) -> Path:
    """`long-TEST-CPU.json` in `folder`; a second run on the same kind of CPU takes its place."""
    describe, slug = _machine()
    name = re.sub(r"[^a-z0-9]+", "-", test.rpartition("::")[2].removeprefix("test_").lower()).strip("-")
    result = {"test": test, "seconds": round(seconds, 1), "figures": dict(figures), "machine": describe()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"long-{name}-{slug()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def _machine() -> tuple[Any, Any]:
    """How the benchmarks describe a machine, commit and date included, and name it in files."""
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        from serving_bench.machine import describe, slug
    finally:
        sys.path.remove(str(ROOT / "bench"))
    return describe, slug


class LongResults:
    """A pytest plugin with the fixture `record`."""

    @pytest.fixture
    def record(self, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
        """Figures of a long test, by name; the test fills it."""
        figures: dict[str, Any] = {}
        yield figures
        report = request.node.stash[_CALL]
        if report.passed:
            folder: Path = request.config.getoption("--results")
            print(f"\nresult: {write_result(folder, request.node.nodeid, report.duration, figures)}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
        report = yield
        if report.when == "call":
            item.stash[_CALL] = report
        return report


_CALL = pytest.StashKey[pytest.TestReport]()
