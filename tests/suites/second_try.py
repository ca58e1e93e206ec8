"""Which failed tests may be run once more, alone. Whoever passes then is FLAKY: named, and not red.

A second try forgives a test what the machine did to it. It must not forgive a bug, so everything else stays red:
fixtures, teardowns, imports, crashes, more failures than chance makes, and tests that judge what ran before them.
"""

from __future__ import annotations

from suites.outcomes import JUDGE, STORY, Outcomes

MOST = 5  # failures of one suite; with more, the suite is broken and not the weather
TESTS_FAILED = 1  # pytest's exit code for "ran to the end, and some failed"


def second_try(outcomes: Outcomes) -> list[str]:
    """What pytest is to be given, in the order of the failures; empty where the suite stays red as it is.

    Tests of a story build on each other, so that such a file is told again from its beginning.
    """
    failures = outcomes.failures
    if outcomes.exit != TESTS_FAILED or not 1 <= len(failures) <= MOST:
        return []
    if any(failure.phase != "call" or JUDGE in failure.marks for failure in failures):
        return []
    again = [failure.test.partition("::")[0] if STORY in failure.marks else failure.test for failure in failures]
    return list(dict.fromkeys(again))
