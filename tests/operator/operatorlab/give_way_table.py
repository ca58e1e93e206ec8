"""The table of checks in docs/operator.md, made from the list itself. As a program it writes the page's part anew."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path

from topmast_operator.plan.give_way import CHECKS, Refusal

PAGE = Path(__file__).parents[3] / "docs" / "operator.md"
BEGIN, END = "<!-- checks: made by the tests -->", "<!-- end of checks -->"


def table(refusals: Mapping[str, Refusal | None]) -> str:
    """One row a check, in their order: what it refuses, and the reason that status then carries."""
    rows = ["| | check | refuses when | `reason` |", "|---|---|---|---|"]
    for number, check in enumerate(CHECKS, 1):
        refusal = refusals[check.__name__]
        assert refusal is not None and check.__doc__
        reason = "of the finding" if refusal.finding and refusal.check != "pods_are_allowed" else f"`{refusal.reason}`"
        says = inspect.cleandoc(check.__doc__).replace("\n", " ").rstrip(".")
        rows.append(f"| {number} | `{check.__name__}` | {says} | {reason} |")
    return "\n".join(rows)


def replaced(page: str, begin: str, end: str, inside: str) -> str:
    """The page with another part between two marks."""
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{inside}\n\n{end}{after}"


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]
    from test_plan_give_way import REFUSED, first_refusal, with_faults

    made = table({name: first_refusal(with_faults(name)) for name in REFUSED})
    PAGE.write_text(replaced(PAGE.read_text(), BEGIN, END, made))
