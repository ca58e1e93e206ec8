"""Writes the table of values in topmast/README.md from topmast/values.yaml: `make chart` runs it, a test looks.

A value's description is the comment right above it, without indented lines: those are examples. A value with no comment
of its own belongs to the nearest one above it that has one.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "topmast"
BEGIN, END = "<!-- values: begin, written by `make chart` -->\n", "<!-- values: end -->\n"
LONGEST_DEFAULT = 100
_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):(?: |$)")


@dataclass
class Row:
    """One value: where it is, what stands above it, and whether values below it have rows of their own."""

    path: tuple[str, ...]
    default: Any
    description: str
    is_group: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = ".".join(self.path)


def rows(text: str) -> list[Row]:
    """The described values of a values file, in its order."""
    values = yaml.safe_load(text)
    found: dict[tuple[str, ...], Row] = {}
    for path, comment in _keys(text):
        for length in range(1, len(path)):
            if path[:length] in found and comment:
                found[path[:length]].is_group = True
        if comment:
            found[path] = Row(path, _at(values, path), comment)
    return list(found.values())


def undescribed(text: str) -> list[str]:
    """Values that no row of the table shows."""
    shown = {row.path for row in rows(text) if not row.is_group}
    return [
        ".".join(path)
        for path in _leaves(yaml.safe_load(text))
        if not any(path[:length] in shown for length in range(1, len(path) + 1))
    ]


def table(text: str) -> str:
    """All rows as Markdown."""
    lines = ["| value | default | what it is |", "|---|---|---|"]
    for row in rows(text):
        lines.append(f"| `{row.name}` | {_default(row)} | {_cell(row.description)} |")
    return "\n".join(lines) + "\n"


def with_table(readme: str, values: str) -> str:
    """The README with a fresh table. ValueError: it has no place for one."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no lines {BEGIN.strip()} and {END.strip()}: put them where the table belongs")
    return f"{before}{BEGIN}{table(values)}{END}{after}"


def _keys(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """The path of every key that has a line of its own, with the comment above it. Keys of list items are none."""
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        match = _KEY.match(line)
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip()[1:])
            continue
        if match:
            path = [*path[: len(match[1]) // 2], match[2]]
            yield tuple(path), " ".join(piece.strip() for piece in comment if not piece.startswith("   "))
        comment = []


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        values = values[part]
    return values


def _leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path


def _default(row: Row) -> str:
    if row.is_group:
        return ""
    text = json.dumps(row.default, ensure_ascii=False)
    return f"`{_cell(text)}`" if len(text) <= LONGEST_DEFAULT else "see values.yaml"


def _cell(text: str) -> str:
    """Text that a Markdown table takes as it is."""
    return text.replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    readme = CHART / "README.md"
    try:
        readme.write_text(with_table(readme.read_text(), (CHART / "values.yaml").read_text()))
    except ValueError as error:
        sys.exit(f"values_table: {error}")
