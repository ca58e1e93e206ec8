"""docs/security.md: each row of its tables names tests, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[str]:
    """The rows of all tables, without heads and lines below them."""
    lines = PAGE.read_text().splitlines()
    below = [number for number, line in enumerate(lines) if re.fullmatch(r"\|[-|]+\|", line)]
    heads = {number - 1 for number in below}
    return [line for number, line in enumerate(lines) if line.startswith("|") and number not in heads | set(below)]


def test_every_row_names_a_test() -> None:
    assert len(rows()) >= 18
    assert [row for row in rows() if not NAMED.search(row)] == []


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(PAGE.read_text()))))
def test_every_test_that_is_named_exists(file: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file} has no {name}"
