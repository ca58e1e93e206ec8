"""The plan of `make test`: every test is in it, and what measures is alone."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from suites.plan import STEPS, Kind, Step, chosen, next_step

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def recipe(target: str) -> str:
    """The rule of a target: its first line and its commands."""
    found = re.search(rf"^{re.escape(target)}:.*\n(?:\t.*\n)*", MAKEFILE, re.M)
    assert found, f"the Makefile has no target {target}"
    return found[0]


def test_every_step_is_a_target_and_every_need_an_earlier_step() -> None:
    for place, step in enumerate(STEPS):
        assert recipe(step.target)
        assert set(step.after) <= {earlier.target for earlier in STEPS[:place]}, step


def test_every_folder_of_tests_is_run_by_a_step() -> None:
    recipes = "".join(recipe(step.target) for step in STEPS)
    folders = {path.parent.name for path in ROOT.glob("tests/*/test_*.py")}
    assert {"kernels", "server", "gateway", "operator", "cluster", "suites"} <= folders
    for folder in folders:
        assert re.search(rf"tests/{folder}(?![\w/])", recipes), f"no step runs tests/{folder}"


def test_what_one_step_leaves_out_of_its_folder_another_one_runs() -> None:
    recipes = "".join(recipe(step.target) for step in STEPS)
    left_out = re.findall(r"--ignore=([\w/.]+)", recipes)
    assert left_out
    for path in left_out:
        assert (ROOT / path).exists()
        assert re.search(rf"(?<!--ignore=){re.escape(path)}", recipes), f"nobody runs {path}"


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
