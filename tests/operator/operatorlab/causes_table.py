"""The table of causes in docs/operator.md, made from causes.yaml and what status tells of each.

As a program it writes the page's part anew.
"""

from __future__ import annotations

import re

from operatorlab.by_hand import OnTheOnlyGpu
from operatorlab.causes import NEVER, ROWS, THIRD, Row
from operatorlab.facts import condition, plan
from operatorlab.give_way_table import PAGE, replaced
from topmast_operator.api.facts import Facts

BEGIN, END = "<!-- causes: made by the tests -->", "<!-- end of causes -->"
COUNTS = re.compile(r"^\d of \d replicas (?:serve|find no node)\. ")
POD = re.compile(r"\bm-[0-9a-f]{8}(?:-[a-z0-9]+)*\b-?")
SHOWN = 180  # characters of a sentence; its end is the way out
WAYS_ON = (
    ("Nothing waits", "by itself"),
    ("Nothing is tried", "when asked"),
    ("goes on by itself", "once mended"),
)


def table() -> str:
    """One row a cause, in the order of causes.yaml."""
    rows = ["| cause | condition, `reason` | Stalled | what it says | goes on |", "|---|---|---|---|---|"]
    rows += [
        f"| {row.cause} | {row.condition}, `{row.reason}` | {_stalled(row)} | {_says(row)} | {_goes_on(row)} |"
        for row in ROWS
    ]
    return "\n".join(rows)


def _stalled(row: Row) -> str:
    if row.stalled == NEVER:
        return "no"
    if row.stalled == THIRD:
        return "after 3 failures"
    return f"after {row.stalled} s" if row.stalled else "at once"


def _says(row: Row) -> str:
    told = plan(_places(row)[0])
    said = COUNTS.sub("", condition(told, row.condition)["message"]).replace("|", r"\|")
    said = POD.sub("POD", said)
    if len(said) <= SHOWN:
        return said
    head, tail = said[: SHOWN // 2].rsplit(" ", 1)[0], said[-SHOWN // 2 :].split(" ", 1)[1]
    return f"{head} … {tail}"


def _goes_on(row: Row) -> str:
    """As a first revision, and as a successor where that differs."""
    ways = []
    for facts in _places(row):
        said = condition(plan(facts), "Stalled")["message"]
        ways.append(next(way for words, way in WAYS_ON if words in said))
    first, *rest = dict.fromkeys(ways)
    return f"{first}; as a successor {rest[0]}" if rest else first


def _places(row: Row) -> list[Facts]:
    case = row.facts
    successor = case.successor(row.long_after_s)
    return [successor] if isinstance(case, OnTheOnlyGpu) else [case.first(row.long_after_s), successor]


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(), BEGIN, END, table()))
