"""The gateway's benchmark runs, has figures for every bar, and judges them rightly. No figure is judged here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvloop

from gateway.lab.stage import Stage

REPOSITORY = Path(__file__).parents[3]
BENCH = REPOSITORY / "bench"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The package beside bench/gateway.py, importable for these tests only."""
    sys.path.append(str(BENCH))
    try:
        import gateway_bench.bars
        import gateway_bench.front
        import gateway_bench.scenarios
        import gateway_bench.table

        yield gateway_bench
    finally:
        sys.path.remove(str(BENCH))


def test_every_scenario_runs_and_every_bar_has_its_figure(bench: Any, stage: Stage) -> None:
    runs: dict[str, list[dict[str, Any]]] = {}
    with bench.front.running(stage) as gateway:
        for name, scenario in bench.scenarios.SCENARIOS.items():
            runs[name] = [uvloop.run(scenario(gateway, 0.01))]
    assert bench.bars.wrong(runs) == []
    assert len(bench.bars.judge(runs)) == len(bench.bars.BARS)
    figures = {(name, figure) for name, figure, _ in bench.table.FIGURES}
    assert {(name, figure) for name, figure in figures if bench.table.look_up(runs[name][0], figure) is None} == set()
    assert runs["throughput"][0]["events_per_s"] > 0 and runs["throughput"][0]["relay"]["events_per_s"] > 0
    assert runs["large"][0]["accepted"] == runs["large"][0]["large"] > 2
    # An event cannot take less time with the gateway between. Of first events there is one: it may be late by itself.
    assert runs["latency1"][0]["added"]["event"]["p50"] > -1


def test_a_bar_is_met_on_its_own_side_only(bench: Any) -> None:
    fast = {"throughput": [{"events_per_cpu_s": value} for value in (7000, 9000, 9500)]}
    large = {"streams": [{"rss_mib": 251.0, "streams": 9, "alive": 8}]}
    (first,), (second,) = bench.bars.judge(fast), bench.bars.judge(large)
    assert (first["met"], first["median"], first["least"]) == (True, 9000, 7000)
    assert second["met"] is False
    assert bench.bars.wrong(large) == ["1 open streams ended"]


def test_what_is_no_matter_of_speed_is_named(bench: Any) -> None:
    runs = {"large": [{"large": 9, "accepted": 8, "failed": 1, "refused": 0}]}
    assert bench.bars.wrong(runs) == [
        "1 large bodies did not reach the engine",
        "1 answers to large bodies were not whole",
    ]


def test_the_table_of_the_docs_is_that_of_the_results(bench: Any, tmp_path: Path) -> None:
    committed = REPOSITORY / "docs" / "performance.md"
    copy = tmp_path / "performance.md"
    copy.write_text(committed.read_text())
    bench.table.write(copy, BENCH / "results")
    assert copy.read_text() == committed.read_text(), "run: python bench/gateway.py --table"
    copy.write_text("no markers")
    with pytest.raises(ValueError, match="lost its markers"):
        bench.table.write(copy, BENCH / "results")


def test_a_wrong_flag_gets_a_sentence() -> None:
    command = [sys.executable, str(BENCH / "gateway.py"), "--only", "latency2"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2 and "there is no scenario latency2; there are latency1" in run.stderr
