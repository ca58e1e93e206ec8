"""A second try is for tests that chance may have failed, and for nothing else."""

from __future__ import annotations

import pytest

from suites.outcomes import JUDGE, STORY, Failure, Outcomes
from suites.second_try import MOST, second_try


def failed(*failures: Failure, code: int | None = 1) -> Outcomes:
    return Outcomes(ended=20, failures=failures, exit=code)


def test_failed_tests_are_run_again_and_nothing_else_is() -> None:
    failures = [Failure("tests/a/test_a.py::test_one[x y]", "call"), Failure("tests/a/test_b.py::test_two", "call")]
    assert second_try(failed(*failures)) == [failure.test for failure in failures]


def test_a_story_is_told_again_from_its_beginning() -> None:
    late, later, other = (Failure(f"tests/a/{name}", "call") for name in ("s.py::test_4", "s.py::test_5", "b.py::test"))
    told = [Failure(failure.test, "call", (STORY,)) for failure in (late, later)]
    assert second_try(failed(*told, other)) == ["tests/a/s.py", "tests/a/b.py::test"]


@pytest.mark.parametrize("phase", ["setup", "teardown", "collect", "???"])
def test_what_failed_outside_of_a_test_stays_red(phase: str) -> None:
    by_chance = Failure("tests/a/test_a.py::test_one", "call")
    assert second_try(failed(by_chance)) != []
    assert second_try(failed(by_chance, Failure("tests/a/test_a.py::test_two", phase))) == []


def test_a_judge_of_other_tests_is_not_asked_again_when_it_has_seen_none() -> None:
    assert second_try(failed(Failure("tests/a/test_rights.py::test_all", "call", (JUDGE,)))) == []


def test_many_failures_are_no_chance() -> None:
    failures = [Failure(f"tests/a/test_a.py::test_{n}", "call") for n in range(MOST + 1)]
    assert len(second_try(failed(*failures[:MOST]))) == MOST
    assert second_try(failed(*failures)) == []


@pytest.mark.parametrize("code", [None, 0, 2, 3, 4, 5])
def test_a_pytest_that_did_not_end_as_it_should_stays_red(code: int | None) -> None:
    """Killed, passed although something failed, interrupted, broken, misused, or without tests."""
    assert second_try(failed(Failure("tests/a/test_a.py::test_one", "call"), code=code)) == []


def test_without_a_failed_test_there_is_nothing_to_try() -> None:
    assert second_try(failed()) == []
