"""What the pages say to type exists: targets, files, values of the chart, flags of `topmast key` and `team`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer import Typer
from typer.main import get_command

from topmast_cli.keys import command, team_command

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "charts/topmast/templates/NOTES.txt"])
FOLDERS = ("examples", "charts", "crds", "bench")


def lines() -> Iterator[tuple[str, str]]:
    """Page and line of every fenced block; lines that end in a backslash are joined."""
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if page.suffix == ".md" else [text]
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            yield str(page.relative_to(ROOT)), line.strip()


def test_make_has_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {(page, target) for page, line in lines() for target in re.findall(r"(?:^|[ (])make ([a-z-]+)", line)}
    assert {target for _, target in named} >= {"up", "venv"}
    assert [found for found in sorted(named) if found[1] not in targets] == []


def test_every_file_of_the_checkout_is_there() -> None:
    pattern = re.compile(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w./-]*)")
    named = {(page, path) for page, line in lines() for path in pattern.findall(line)}
    assert ("docs/how-to/install.md", "charts/topmast") in named
    assert [found for found in sorted(named) if not (ROOT / found[1].rstrip(".")).exists()] == []


def test_every_value_of_the_chart_exists() -> None:
    values = yaml.safe_load((ROOT / "charts/topmast/values.yaml").read_text())
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"--set(?:-string)? '?([A-Za-z.]+)=", text))
    assert len(named) > 5
    for path in named:
        found = values
        for part in path.split("."):
            assert part in found, f"--set {path}: values.yaml has no such value"
            found = found[part]


@pytest.mark.parametrize(("group", "app"), [("key", command.app), ("team", team_command.app)])
def test_topmast_takes_every_line_that_is_shown(group: str, app: Typer) -> None:
    actions: Any = get_command(app)
    shown = [line for _, line in lines() if re.match(rf"(\S*/)?topmast {group} [a-z]", line)]
    assert len(shown) >= 3
    for line in shown:
        words = shlex.split(re.sub(r"\{\{.*?\}\}", "x", line), comments=True)[2:]
        actions.commands[words[0]].make_context(words[0], words[1:])


def test_a_flag_that_is_not_there_would_be_noticed() -> None:
    actions: Any = get_command(command.app)
    with pytest.raises(Exception, match="No such option: --tokens"):
        actions.commands["create"].make_context("create", ["alice", "--tokens", "3"])
