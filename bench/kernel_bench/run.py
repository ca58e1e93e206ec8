"""Measures one problem after the other until the time budget is used up, and writes what came out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kernel_bench import attention, claims, coverage, extras, layers, machine, picture, products, vocabulary
from kernel_bench.clock import Clock
from kernel_bench.problem import Absent, Problem, Result

TINY = layers.Widths(model=64, gate=96, heads=4, kv_heads=2, dim=64)


def all_problems(device: torch.device) -> list[Problem]:
    """The most telling sizes of every operation first."""
    parts = (vocabulary, attention, layers, products, extras)
    return sorted((each for part in parts for each in part.problems(device)), key=lambda problem: problem.weight)


def tiny_problems(device: torch.device) -> Iterator[Problem]:
    """Every kernel at least once, small enough for Triton's interpreter and for compute-sanitizer."""
    yield from vocabulary.problems(device, (1000,), (3,))
    yield next(vocabulary.problems(device, (20000,), (1,)))  # a softmax of two launches
    yield from attention.problems(device, ((2, 40), (1, 600)), ((1, 20),), TINY)  # 600 keys are two splits
    yield from layers.problems(device, (2,), TINY)
    yield from products.problems(device, (2,), TINY)
    yield from extras.problems(device, (1000,), (2,))


def run(device: torch.device, only: list[str], budget_s: float, folder: Path) -> int:
    """Returns 0, or 1 if one of our own results was wrong."""
    begin = time.monotonic()
    clock = Clock(device)
    here = machine.describe(clock)
    print(here, flush=True)
    results = []
    with coverage.started() as names:
        for problem in all_problems(device) if clock.on_gpu else tiny_problems(device):
            if only and not any(problem.operation.startswith(name) for name in only):
                continue
            late = time.monotonic() - begin > budget_s
            for result in _not_measured(problem) if late else measure(problem, clock, here):
                results.append(result)
                if not late:
                    print(_line(result), flush=True)
    skipped = sum(result.said == OUT_OF_TIME for result in results)
    folder.mkdir(parents=True, exist_ok=True)
    name = "kernels-" + "-".join(here.name.lower().split())
    outcomes = claims.judge(here, results)
    report = {"machine": asdict(here), "seconds": round(time.monotonic() - begin, 1)}
    report["claims"] = [asdict(outcome) for outcome in outcomes]
    rows = ",\n  ".join(json.dumps(asdict(result)) for result in results)
    (folder / f"{name}.json").write_text(f'{json.dumps(report)[:-1]},\n "results": [\n  {rows}\n]}}\n')
    (folder / f"{name}.svg").write_text(picture.draw(here, results))
    for outcome in outcomes:
        print({True: "holds", False: "does NOT hold", None: "not measured"}[outcome.holds], outcome, sep=": ")
    print(f"{len(results) - skipped} results and {skipped} without time left, in {folder / name}.json and .svg")
    wrong = [result for result in results if result.contestant == "topmast" and result.right is False]
    for result in wrong:
        print("WRONG:", _line(result))
    left_out = [] if only or clock.on_gpu else _left_out(names)
    return 1 if wrong or left_out else 0


OUT_OF_TIME = "not measured: the time budget was used up"


def _not_measured(problem: Problem) -> Iterator[Result]:
    for name in problem.contestants:
        yield Result(problem.operation, problem.size, name, said=OUT_OF_TIME)


def measure(problem: Problem, clock: Clock, here: machine.Machine) -> Iterator[Result]:
    """One result per contestant. A wrong answer, an absent package and a failure are results, too."""
    inputs = [problem.make(seed) for seed in range(clock.calls_for(problem.bytes_moved))]
    for name in problem.contestants:
        result = Result(problem.operation, problem.size, name, problem.bytes_moved)
        result.floor_us = here.floor_us(problem.bytes_moved)
        try:
            _measure_one(problem, name, inputs, clock, result)
        except Absent as reason:
            result.said = str(reason)
        except Exception as error:  # a rival that breaks must not end the run; ours is reported and ends it with 1
            result.said, result.right = f"failed: {type(error).__name__}: {error}"[:300], False
        yield result
    if clock.on_gpu:
        torch.compiler.reset()
        del inputs
        torch.cuda.empty_cache()


def _measure_one(problem: Problem, name: str, inputs: list[Any], clock: Clock, result: Result) -> None:
    setup = problem.contestants[name]
    calls = [setup(inputs[0])]
    wrong = problem.check(inputs[0], calls[0])
    result.right = wrong is None
    if wrong is not None:
        result.said = f"disqualified: {wrong}"
        return
    if clock.on_gpu:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        calls[0]()
        result.extra_bytes = torch.cuda.max_memory_allocated() - before
    result.launches = clock.launches(calls[0])
    calls += [setup(each) for each in inputs[1 : clock.affordable(calls[0])]]
    cold = clock.measure(calls, cold=True)
    warm = clock.measure(calls[:1] * len(calls), cold=False)
    result.graph = cold.graph
    result.cold_us, result.warm_us = round(cold.median_us, 2), round(warm.median_us, 2)
    result.spread_us = [round(cold.low_us, 2), round(cold.high_us, 2)]
    result.cold_gb_per_s = round(problem.bytes_moved / cold.median_us / 1e3, 1)
    if not clock.on_gpu:
        result.said = "on a CPU, ours in Triton's interpreter: the time says nothing"
    elif not cold.graph:
        result.said = "not capturable in a graph: measured call by call"


def _line(result: Result) -> str:
    size = ", ".join(f"{key} {value}" for key, value in result.size.items())
    times = f"{result.cold_us} us cold, {result.warm_us} us warm, " if result.cold_us is not None else ""
    return f"{result.operation} ({size}) {result.contestant}: {times}{result.said}"


def one_of_each(device: torch.device) -> int:
    """Calls each of our kernels on small inputs, checks the results, and returns 1 if one is wrong or was left out."""
    wrong = 0
    with coverage.started() as names:
        for problem in tiny_problems(device):
            given = problem.make(0)
            verdict = problem.check(given, problem.contestants["topmast"](given))
            wrong += verdict is not None
            print(problem.operation, problem.size, verdict or "right", flush=True)
    return 1 if _left_out(names) or wrong else 0


def _left_out(names: set[str]) -> list[str]:
    missing = sorted(set(coverage.all_kernels()) - names)
    for name in missing:
        print(f"WRONG: {name} was not started")
    return missing
