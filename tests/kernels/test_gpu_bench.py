"""The benchmark runs from end to end without a GPU, and its judges tell right answers from wrong ones."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def test_the_benchmark_runs_in_the_interpreter(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "kernels.py"), "--cpu-smoke", "--results", str(tmp_path)]
    run = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    report = json.loads(next(tmp_path.glob("kernels-*.json")).read_text())
    ours = [each for each in report["results"] if each["contestant"] == "topmast"]
    assert len({each["operation"] for each in ours}) == 14
    assert all(each["right"] and each["cold_us"] for each in ours)
    assert all(each["right"] or each["said"] for each in report["results"])  # who takes no part says why
    picture = ElementTree.parse(next(tmp_path.glob("kernels-*.svg")))
    assert len(picture.findall(".//{http://www.w3.org/2000/svg}polyline")) >= len(ours)


def test_without_a_gpu_the_command_says_what_it_can_do() -> None:
    command = [sys.executable, str(BENCH / "kernels.py")]
    run = subprocess.run(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True)
    assert run.returncode == 2 and "There is no GPU here" in run.stderr


@pytest.mark.parametrize("kind", ["normal", "llm-like", "peaked"])
def test_a_sampler_is_judged_by_its_draws(bench: None, kind: str) -> None:
    from kernel_bench.logits import make_logits
    from kernel_bench.verdict import Filters, judge_sampler, reference

    logits, filters = make_logits(kind, 32, 500, 1, torch.device("cpu")), Filters(top_k=40, top_p=0.9)
    shares = reference(logits, filters, all_ties=False)
    generator = torch.Generator().manual_seed(2)

    def judge(draw) -> str | None:
        return judge_sampler(logits, draw, filters, all_ties=False, next_step=lambda: None)

    assert judge(lambda: shares.multinomial(1, generator=generator)[:, 0]) is None
    if kind != "peaked":  # where one token has nearly all of the mass, greedy is right
        assert "do not follow" in (judge(lambda: shares.argmax(dim=1)) or "")
        unfiltered = logits.double().softmax(dim=1)
        assert "forbid" in (judge(lambda: unfiltered.multinomial(1, generator=generator)[:, 0]) or "")
    assert "outside" in (judge(lambda: torch.full((32,), 500)) or "")


@pytest.mark.parametrize("filters", [(50, 0.9), (0, 0.9), (50, 0.3)])
def test_the_transformers_chain_is_transformers(bench: None, filters: tuple[int, float]) -> None:
    from kernel_bench.logits import make_logits
    from kernel_bench.verdict import Filters
    from kernel_bench.vocabulary import _transformers_chain
    from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

    logits = make_logits("llm-like", 64, 500, 3, torch.device("cpu"))
    scores, no_ids = logits.float(), torch.zeros(64, 1, dtype=torch.long)
    if filters[0]:
        scores = TopKLogitsWarper(filters[0])(no_ids, scores)
    scores = TopPLogitsWarper(filters[1])(no_ids, scores)
    torch.manual_seed(4)
    expected = torch.multinomial(scores.softmax(dim=-1), 1)[:, 0]
    torch.manual_seed(4)
    assert torch.equal(_transformers_chain(logits, Filters(*filters)), expected)


def test_a_rival_that_breaks_or_errs_gets_no_time(bench: None) -> None:
    from kernel_bench.clock import Clock
    from kernel_bench.machine import Machine
    from kernel_bench.problem import Absent, Problem
    from kernel_bench.run import measure
    from kernel_bench.verdict import judge_close

    def absent(given: torch.Tensor):
        raise Absent("not installed")

    def broken(given: torch.Tensor):
        return lambda: given[100]

    contestants = {
        "right": lambda x: lambda: 2 * x,
        "wrong": lambda x: lambda: 3 * x,
        "absent": absent,
        "broken": broken,
    }
    problem = Problem(
        "double",
        {"batch": 1},
        8,
        lambda seed: torch.ones(2, 2),
        contestants,
        lambda x, call: judge_close(call(), 2 * x, 1e-3),
    )
    here = Machine("test", "", "", "", "", None, None)
    found = {result.contestant: result for result in measure(problem, Clock(torch.device("cpu")), here)}
    assert found["right"].right and found["right"].cold_us is not None
    assert not found["wrong"].right and found["wrong"].cold_us is None and "disqualified" in found["wrong"].said
    assert found["absent"].right is None and found["absent"].said == "not installed"
    assert not found["broken"].right and "IndexError" in found["broken"].said


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_the_gpu_path_runs_with_a_stand_in_for_cuda(bench: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed here that means anything: it shows that the code for a GPU has no mistakes in its Python."""
    from kernel_bench import clock, machine, products, run

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = time.perf_counter()

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, end: Event) -> float:
            return (end.at - self.at) * 1e3

    class Graph:
        def replay(self) -> None:
            time.sleep(1e-4)

    for name, stand_in in {"Event": Event, "CUDAGraph": Graph, "graph": contextlib.nullcontext}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name, value in {"memory_allocated": 5, "max_memory_allocated": 9, "get_device_name": "stand-in"}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, value=value: value)
    monkeypatch.setattr(clock, "FLUSH_BYTES", 1000)
    monkeypatch.setattr(machine, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(clock, "MOST_CALLS", 2)
    timer = clock.Clock(torch.device("cpu"), replays=3)
    timer.on_gpu = True
    here = machine.describe(timer)
    assert here.name == "stand-in" and here.copy_gb_per_s is not None and here.node_us is not None
    problem = next(products.problems(torch.device("cpu"), (2,), run.TINY))
    ours = next(run.measure(problem, timer, here))
    assert ours.right and ours.graph and ours.cold_us and ours.warm_us and ours.extra_bytes == 4, ours.said


def test_a_claim_stands_or_falls_with_its_worst_cell(bench: None) -> None:
    from kernel_bench.claims import judge
    from kernel_bench.machine import Machine
    from kernel_bench.problem import Result

    def softmax(rows: int, contestant: str, time_us: float) -> Result:
        size: dict[str, int | str] = {"vocabulary": 128256, "batch": rows}
        moved = rows * 128256 * 4
        return Result("softmax", size, contestant, moved, True, time_us, cold_gb_per_s=moved / time_us / 1e3)

    machine = Machine("made up", "", "", "", "", copy_gb_per_s=1000.0, node_us=1.0)
    cells = [
        softmax(1, "topmast", 2.0),
        softmax(1, "torch", 8.0),
        softmax(8, "topmast", 5.0),
        softmax(8, "torch", 10.0),
    ]
    cells += [softmax(128, "topmast", 70.0), softmax(256, "topmast", 140.0)]
    found = {outcome.text[:20]: outcome for outcome in judge(machine, cells)}
    assert found["softmax of up to 8 l"].holds is False  # 4 times and 2 times as fast
    assert found["softmax of up to 8 l"].worst == 2.0 and "'batch': 8" in found["softmax of up to 8 l"].where
    assert found["softmax of 64 MB and"].holds is True and found["softmax of 64 MB and"].cells == 2
    assert found["greedy takes at most"].holds is None


def test_the_soak_and_the_sanitizers_cases_run(bench: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from kernel_bench import layers, run, soak

    cpu = torch.device("cpu")
    assert soak.soak(cpu, calls=2, vocabulary=300, outputs=64, depth=640) == 0
    monkeypatch.setattr(run, "tiny_problems", lambda device: layers.problems(device, (2,), run.TINY))
    monkeypatch.setattr(run, "_left_out", lambda names: sorted(names - {"norm._rms_norm"}))
    assert run.one_of_each(cpu) == 1  # others than the norm were started, so it is seen what starts


def test_the_soak_sees_a_counter_that_is_not_reset(bench: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from kernel_bench import soak

    calls = []

    def runner(device: torch.device, seed: int):
        counter = torch.zeros(1)
        yield soak.Runner("good", lambda: calls.append(seed), (torch.ones(1),), (counter,))

    monkeypatch.setattr(soak, "runners", runner)
    assert soak.soak(torch.device("cpu"), calls=10) == 0 and len(calls) == 12

    def forgetful(device: torch.device, seed: int):
        counter = torch.zeros(1)
        yield soak.Runner("bad", lambda: counter.add_(1), (torch.ones(1),), (counter,))

    monkeypatch.setattr(soak, "runners", forgetful)
    assert soak.soak(torch.device("cpu"), calls=10) == 1
