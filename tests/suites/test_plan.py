"""The plan of `make test`: every test is in it, and what measures is alone."""

from __future__ import annotations

import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suites.plan import STEPS, Kind, Step, chosen, next_step

ROOT = Path(__file__).parents[2]
SUITES = [step.target for step in STEPS if step.target.startswith("test-")]
FILES = {str(path.relative_to(ROOT)) for path in ROOT.glob("tests/**/test_*.py")}


@cache
def commands(target: str) -> list[list[str]]:
    """How make would run pytest for a target, as arguments; what it builds before does not matter here."""
    command = ["make", "--no-print-directory", "--dry-run", target]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [shlex.split(line) for line in said.splitlines() if "/pytest " in line]


def files(command: list[str]) -> set[str]:
    """Those that one call of pytest finds, whatever it deselects in them."""
    ignored = {argument.removeprefix("--ignore=") for argument in command if argument.startswith("--ignore=")}
    paths = [argument for argument in command if argument.startswith("tests/")]
    return {file for file in FILES if any(file == path or file.startswith(f"{path}/") for path in paths)} - ignored


def selection(command: list[str]) -> str:
    return command[command.index("-m") + 1] if "-m" in command else ""


def test_every_step_is_a_target_and_every_need_an_earlier_step() -> None:
    for place, step in enumerate(STEPS):
        assert step.target in SUITES or f"\n{step.target}:" in (ROOT / "Makefile").read_text()
        assert not step.target.startswith("test-") or len(commands(step.target)) == 1
        assert set(step.after) <= {earlier.target for earlier in STEPS[:place]}, step


def test_every_file_of_tests_is_run_by_one_suite() -> None:
    found = {target: files(command) for target in SUITES for command in commands(target)}
    assert all(found.values()), found
    parts = {"test-alone", "test-gateway-units", "test-old-triton"}  # of files that another suite runs as well
    whole = [file for target in SUITES if target not in parts for file in found[target]]
    assert sorted(whole) == sorted(FILES)


@pytest.mark.parametrize(("mark", "suite", "part"), [("alone", "test-operator", "test-alone")])
def test_what_a_suite_deselects_another_one_selects(mark: str, suite: str, part: str) -> None:
    (command,), (other,) = commands(suite), commands(part)
    marked = {file for file in FILES if f"pytest.mark.{mark}\n" in (ROOT / file).read_text()}
    assert marked and marked <= files(command) & files(other)
    assert selection(command) == f"not long and not {mark}" and selection(other) == mark


def test_each_test_of_the_gateway_is_in_one_of_its_suites() -> None:
    """tests/gateway/conftest.py marks those that need the control plane."""
    (with_it,), (without,) = commands("test-gateway"), commands("test-gateway-units")
    assert files(with_it) == files(without)
    assert selection(with_it) == "not long and control_plane" and selection(without) == "not long and not control_plane"


def test_make_test_long_runs_every_folder_that_has_a_long_test() -> None:
    found = set[str]().union(*(files(command) for command in commands("test-long")))
    marked = {file for file in FILES if "pytest.mark.long\n" in (ROOT / file).read_text()}
    assert marked and marked <= found
    assert {selection(command) for command in commands("test-long")} == {"long"}


steps = st.lists(st.tuples(st.sampled_from(Kind), st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=9)


@settings(derandomize=True, database=None, deadline=None)
@given(steps)
def test_each_step_runs_once_after_its_needs_and_what_measures_is_alone(drawn: list[tuple[Kind, int, int]]) -> None:
    """Steps of any kind and length; each may need the one so many places before it."""
    plan = [
        Step(str(place), kind, (str(place - back),) if 0 < back <= place else ())
        for place, (kind, _, back) in enumerate(drawn)
    ]
    waiting, running, passed, now = list(plan), dict[str, int](), list[str](), 0
    while waiting or running:
        while step := next_step(waiting, [plan[int(name)] for name in running], passed):
            assert set(step.after) <= set(passed)
            waiting.remove(step)
            running[step.target] = now + drawn[int(step.target)][1]
        kinds = [plan[int(name)].kind for name in running]
        assert kinds, "steps wait and none runs"
        assert len(kinds) == 1 or sorted(kinds) == [Kind.COMPUTES, Kind.WAITS]
        now = min(running.values())
        ended = [name for name, end in running.items() if end == now]
        passed += ended
        for name in ended:
            del running[name]
    assert sorted(passed) == sorted(step.target for step in plan)


def test_what_waits_and_what_computes_run_side_by_side() -> None:
    waits, computes, other = Step("w", Kind.WAITS), Step("c", Kind.COMPUTES), Step("o", Kind.COMPUTES)
    assert next_step([computes], [waits], []) is computes
    assert next_step([waits], [computes], []) is waits
    assert next_step([other], [computes], []) is None
    assert next_step([other], [computes, waits], []) is None


def test_steps_that_were_not_chosen_count_as_done() -> None:
    (cluster,) = chosen(STEPS, ["test-cluster"])
    assert cluster.after == ()
    images, cluster = chosen(STEPS, ["test-cluster", "images"])
    assert (images.after, cluster.after) == ((), ("images",))
