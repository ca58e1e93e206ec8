"""The runner, on a Makefile of its own with small suites that pass, fail, are flaky, hang or break."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from suites.plan import Kind, Step
from suites.report import report
from suites.runner import Runner

TESTS = Path(__file__).parents[1]
SUITES = {
    "good": "def test_good(): pass",
    "bad": "def test_bad(): assert False",
    "flaky": """
import pathlib, pytest
seen = pathlib.Path(__file__).with_name("seen")
@pytest.mark.parametrize("name", ["it's so", 'a "b" $c'])
def test_second(name):
    before = seen.exists()
    seen.touch()
    assert before or name != "it's so"
""",
    "story": """
import pathlib, pytest
pytestmark = pytest.mark.story
told, seen = [], pathlib.Path(__file__).with_name("seen")
def test_begin(): told.append("begin")
def test_end():
    before = seen.exists()
    seen.touch()
    assert told == ["begin"] and before
""",
    "fixture": """
import pathlib, pytest
seen = pathlib.Path(__file__).with_name("seen")
@pytest.fixture
def shaky():
    before = seen.exists()
    seen.touch()
    assert before
def test_shaky(shaky): pass
""",
    "broken": "import nothing_of_this_name",
    "crash": "import os, signal\ndef test_crash(): os.kill(os.getpid(), signal.SIGKILL)",
    "slow": """
import pathlib, pytest, time
@pytest.fixture
def world():
    pathlib.Path(__file__).with_name("begun").touch()
    yield
    pathlib.Path(__file__).with_name("cleaned").touch()
def test_slow(world): time.sleep(600)
""",
}
MAKEFILE = """
{name}:
	@{python} -m pytest -q -p no:cacheprovider $(or $(TESTS),{name}) $(PYTEST_OPTIONS)
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the Makefile and the suites, each in a folder of its name."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = story\n    judge\n")
    shutil.copy(TESTS / "conftest.py", tmp_path)
    makefile = ".PHONY: plain " + " ".join(SUITES) + "\nplain:\n\t@echo plain output; test -z '$(FAIL)'\n"
    for name, text in SUITES.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"test_{name}.py").write_text(text)
        makefile += MAKEFILE.format(name=name, python=sys.executable)
    (tmp_path / "Makefile").write_text(makefile)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they take most of a small suite's time
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return tmp_path


def run(root: Path, *targets: str | Step, keep_going: bool = True, second_try: bool = True) -> list[str]:
    """The last lines of a run of these steps, one after the other unless they say otherwise."""
    steps = [one if isinstance(one, Step) else Step(one, Kind.MEASURES) for one in targets]
    runner = Runner(steps, root, root / "logs")
    runner.run(keep_going=keep_going)
    if second_try:
        runner.try_again()
    return report(runner.results, runner.waiting, 61.0)


def marked(lines: list[str], word: str) -> list[str]:
    return [line for line in lines if line.startswith(word)]


def test_output_comes_in_one_piece_with_the_steps_seconds(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = run(root, Step("good", Kind.WAITS), Step("plain", Kind.COMPUTES))
    assert lines[-1] == "==> all steps passed in 1 min 1 s"
    said = capfd.readouterr().out
    good = said[said.index("==> good") :]
    assert "1 passed" in good[: good.index("--> ")] and "good passed in" in good and "(1 test)" in good
    plain = said[said.index("==> plain") :]
    assert plain.splitlines()[1] == "plain output" and "plain passed in" in plain.splitlines()[2]


def test_one_red_suite_does_not_hide_the_others(root: Path) -> None:
    lines = run(root, "bad", "good", "broken")
    assert marked(lines, "FAILED") == ["FAILED bad/test_bad.py::test_bad", "FAILED broken/test_broken.py"]
    assert "2 steps failed" in lines[-1] and any("good" in line and "passed" in line for line in lines)


def test_alone_make_test_stops_at_the_first_failure_and_tries_nothing_again(root: Path) -> None:
    lines = run(root, "flaky", "good", keep_going=False, second_try=False)
    assert marked(lines, "FAILED") == ["FAILED flaky/test_flaky.py::test_second[it's so]"]
    assert "    good               did not run" in lines and lines[-1].startswith("==> 1 steps failed, 1 did not run")


def test_who_passes_the_second_time_is_flaky_and_is_named_at_the_end(root: Path) -> None:
    lines = run(root, "flaky", "story", "good")
    assert lines[-3:-1] == ["FLAKY flaky/test_flaky.py::test_second[it's so]", "FLAKY story/test_story.py::test_end"]
    assert lines[-1] == "==> all steps passed, 2 tests only at the second try in 1 min 1 s"
    assert "1 passed" in (root / "logs" / "flaky-again.log").read_text(), "only what had failed runs again"
    assert "2 passed" in (root / "logs" / "story-again.log").read_text(), "a story from its beginning"


@pytest.mark.parametrize("name", ["bad", "fixture", "broken", "crash"])
def test_what_is_no_bad_luck_stays_red(root: Path, name: str) -> None:
    lines = run(root, name)
    assert len(marked(lines, "FAILED")) == 1 and not marked(lines, "FLAKY")
    assert (root / "logs" / f"{name}-again.log").exists() == (name == "bad")


def test_what_needs_a_failed_step_does_not_run(root: Path) -> None:
    lines = run(root, "bad", Step("good", Kind.MEASURES, after=("bad",)), "plain")
    assert "    good               did not run" in lines and "1 did not run" in lines[-1]


def test_a_step_without_tests_that_fails_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "1")
    assert marked(run(root, "plain"), "FAILED") == ["FAILED plain: see its output above"]


@pytest.mark.parametrize("background", [False, True], ids=["terminal", "background"])
def test_an_interrupted_run_leaves_nothing_and_lets_fixtures_clean_up(root: Path, background: bool) -> None:
    """In a shell's background, too, where SIGINT is ignored and programs inherit that."""
    script = f"""
from pathlib import Path
from suites.plan import Kind, Step
from suites.runner import Runner
from suites.running import end_by_interrupt
end_by_interrupt()
Runner([Step("slow", Kind.MEASURES)], Path({str(root)!r}), Path({str(root)!r}) / "logs").run(keep_going=True)
"""
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if background else []
    command = [*ignoring, sys.executable, "-c", script]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    begun, deadline_s = root / "slow" / "begun", time.monotonic() + 60
    while not begun.exists():
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert (root / "slow" / "cleaned").exists()
    assert str(root) not in "".join(_command(entry) for entry in Path("/proc").glob("[0-9]*"))


def _command(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_text()
    except OSError:
        return ""  # it has ended since
