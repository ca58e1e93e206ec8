"""What became of a suite's tests, one JSON object a line, written as they end: a crash leaves what was known.

`pytest --outcomes=FILE` writes the file (tests/conftest.py); the runner of all suites reads it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

STORY, JUDGE = "story", "judge"  # markers, explained in pyproject.toml


class OutcomeLog:
    """A pytest plugin; with xdist it belongs to the process that hears of all tests."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", buffering=1)

    def _write(self, **entry: object) -> None:
        print(json.dumps(entry), file=self._file)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and not report.failed:
            self._write(test=report.nodeid, outcome=report.outcome)
        elif report.failed:  # its fixtures, or (phase "???") the process that it ran in, unless the phase is "call"
            marks = [mark for mark in (STORY, JUDGE) if mark in report.keywords]
            self._write(test=report.nodeid, outcome="failed", phase=report.when, marks=marks)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(test=report.nodeid, outcome="failed", phase="collect", marks=[])

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write(exit=int(exitstatus))


@dataclass(frozen=True)
class Failure:
    """`phase` is call where the test itself failed; else setup, teardown, collect or ??? (its process died)."""

    test: str
    phase: str
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcomes:
    """`ended` tests so far, and how pytest itself ended: None while it runs, and where it was killed."""

    ended: int = 0
    failures: tuple[Failure, ...] = ()
    exit: int | None = None


def read_outcomes(path: Path) -> Outcomes:
    """Nothing where there is no file: the step has no tests, or has not come to them yet."""
    if not path.exists():
        return Outcomes()
    lines = path.read_text().splitlines(keepends=True)
    entries = [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be half written
    tests = [entry for entry in entries if "test" in entry]
    failed = [entry for entry in tests if entry["outcome"] == "failed"]
    failures = tuple(Failure(entry["test"], entry["phase"], tuple(entry["marks"])) for entry in failed)
    exits = [entry["exit"] for entry in entries if "exit" in entry]
    return Outcomes(len({entry["test"] for entry in tests}), failures, exits[-1] if exits else None)
