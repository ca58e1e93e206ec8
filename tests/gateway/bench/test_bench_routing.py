"""The simulation of the choice of a pod: its figures add up, and ours keeps its promises on a trace written here."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    """The package beside bench/routing.py, importable for these tests only."""
    sys.path.insert(0, str(BENCH))
    try:
        import routing_bench.picture
        import routing_bench.report

        yield routing_bench
    finally:
        sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def lines(bench: ModuleType) -> list[str]:
    return [json.dumps(line) for line in bench.chats.lines(users=300)]


@pytest.fixture
def trace(bench: ModuleType, lines: list[str]) -> Any:
    return bench.trace.parse(lines)


def play(bench: ModuleType, trace: Any, policy: str, load: float = 1.2, **setting: Any) -> dict[str, Any]:
    return bench.simulate.run(trace, bench.policies.POLICIES[policy], bench.simulate.Setting(load, **setting))


def test_one_engine_finds_what_an_endless_cache_would(bench: ModuleType, trace: Any) -> None:
    """At a load where no request waits for another, so that everything is computed before it is asked for again."""
    found = play(bench, trace, "round robin", load=0.05, engines=1)
    assert found["hit_rate"] == pytest.approx(bench.trace.ideal_hit_rate(trace), abs=0.005)
    computed = (1 - found["hit_rate"]) * 0.05
    assert found["prefill_utilisation"] == pytest.approx(computed) and found["imbalance"] == 1


def test_times_are_those_of_the_engines_speed(bench: ModuleType) -> None:
    asked = [bench.trace.Asked(0.0, 10_000, 100, ()), bench.trace.Asked(1000.0, 10, 1, ())]
    speed = bench.engine.Speed(prefill_tokens_per_s=1000.0, step_s=0.0, decode_row_s=0.0, chunk_tokens=4096)
    found = play(bench, asked, "topmast", load=0.01, engines=1, speed=speed)
    assert found["ttft_mean_s"] == pytest.approx((10.0 + 0.01) / 2)


@pytest.mark.parametrize("gateways", [1, 2])
def test_ours_comes_near_the_ideal_and_keeps_the_balance(bench: ModuleType, trace: Any, gateways: int) -> None:
    ideal = bench.trace.ideal_hit_rate(trace)
    ours = play(bench, trace, "topmast", gateways=gateways)
    least = play(bench, trace, "least load", gateways=gateways)
    assert ours["hit_rate"] > ideal - 0.05 and ours["imbalance"] < 1.3
    assert least["hit_rate"] < ideal - 0.1 and ours["ttft_mean_s"] < 0.7 * least["ttft_mean_s"]


@pytest.mark.parametrize("turns_known", [True, False])
def test_a_system_prompt_keeps_no_pod_busier_than_the_others_even_when_nothing_waits(
    bench: ModuleType, trace: Any, turns_known: bool
) -> None:
    if not turns_known:
        trace = [dataclasses.replace(asked, opening=0) for asked in trace]
    ours = play(bench, trace, "topmast", load=0.2)
    assert ours["imbalance"] < 1.3 and ours["hit_rate"] > bench.trace.ideal_hit_rate(trace) - 0.02


def test_with_nothing_shared_ours_is_as_good_as_least_load(bench: ModuleType, trace: Any) -> None:
    own = bench.trace.unshared(trace)
    ours, least = (play(bench, own, policy, load=0.7) for policy in ("topmast", "least load"))
    assert ours["hit_rate"] == least["hit_rate"] == 0
    assert ours["ttft_mean_s"] < 1.02 * least["ttft_mean_s"]


def test_the_command_writes_what_the_docs_show(bench: ModuleType, lines: list[str], tmp_path: Path) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(lines[:120]))
    command = [sys.executable, str(BENCH / "routing.py"), str(short), "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "routing-short.json").read_text())
    assert measured["requests"] == 120 and len(measured["scenarios"]) == 11
    assert ElementTree.parse(tmp_path / "routing-short.svg").getroot().tag.endswith("svg")
    assert bench.report.table(measured) in done.stdout
    failed = subprocess.run([*command[:2], str(tmp_path / "none")], capture_output=True, text=True, timeout=60)
    assert failed.returncode == 2 and "cannot read the trace" in failed.stderr
