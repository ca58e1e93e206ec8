"""What all suites share: outcomes for the runner of the suites, and results of long tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from long_results import RESULTS, LongResults
from suites.outcomes import OutcomeLog


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, metavar="FILE", help="write how each test ended, as JSON lines")
    parser.addoption(
        "--results", type=Path, metavar="FOLDER", default=RESULTS, help="where long tests record what they found"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(LongResults())
    path = config.getoption("--outcomes")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(OutcomeLog(path))
