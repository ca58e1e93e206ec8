"""The last lines of a run: how long each step took, what failed and what was flaky, where one sees it."""

from __future__ import annotations

from collections.abc import Sequence

from suites.plan import Step
from suites.running import Result


def summary(result: Result) -> str:
    """`passed in 7 s (63 tests)`, or how many of them failed."""
    ended, failed = result.outcomes.ended, len(_failed(result))
    tests = f" ({failed} of {_tests(ended)})" if failed else f" ({_tests(ended)})" if ended else ""
    return f"{'passed' if result.passed else 'FAILED'} in {result.seconds:.0f} s{tests}"


def report(results: Sequence[Result], not_run: Sequence[Step], seconds: float) -> list[str]:
    """A line for each step, then FAILED and FLAKY names, and a last line that says whether all is well."""
    lines = ["", "==> all steps"]
    lines += [f"    {result.step.target:18} {summary(result)}" for result in results]
    lines += [f"    {step.target:18} did not run" for step in not_run]
    red = [result for result in results if not result.passed]
    for result in red:
        lines += [f"FAILED {test}" for test in _failed(result)] or [
            f"FAILED {result.step.target}: see its output above"
        ]
    flaky = [test for result in results for test in result.flaky]
    lines += [f"FLAKY {test}" for test in flaky]
    verdict = f"{len(red)} steps failed, {len(not_run)} did not run" if red or not_run else "all steps passed"
    if flaky:
        verdict += f", {_tests(len(flaky))} only at the second try"
    return [*lines, f"==> {verdict} in {int(seconds) // 60} min {int(seconds) % 60} s"]


def _failed(result: Result) -> list[str]:
    return list(dict.fromkeys(failure.test for failure in result.outcomes.failures))


def _tests(count: int) -> str:
    return f"{count} test" if count == 1 else f"{count} tests"
