"""Every page is found from the index, and no link leads nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCES = (
    "bench",
    "charts",
    "cli",
    "cluster",
    "crds",
    "docs",
    "examples",
    "gateway",
    "images",
    "kernels",
    "operator",
    "server",
)
SUFFIXES = {".py", ".md", ".yaml", ".tpl", ".txt", ".Containerfile"}
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
MENTION = re.compile(r"(?<![\w/.-])docs/[\w/.-]*\w")


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "cluster" / "README.md"])


def prose(page: Path) -> str:
    """Without fenced code, where brackets are no links and # is no heading."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> Iterator[str]:
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            yield f"{target}: there is no {path}"
        elif anchor and anchor not in anchors(there):
            yield f"{target}: {path} has no heading for #{anchor}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_every_page_is_in_the_index() -> None:
    index = DOCS / "README.md"
    linked = {(DOCS / target.partition("#")[0]).resolve() for target in LINK.findall(prose(index))}
    assert [str(page) for page in DOCS.rglob("*.md") if page != index and page not in linked] == []


def test_every_page_that_code_names_exists() -> None:
    named = {
        (mention, str(file.relative_to(ROOT)))
        for folder in SOURCES
        for file in (ROOT / folder).rglob("*")
        if file.suffix in SUFFIXES
        for mention in MENTION.findall(file.read_text())
    }
    assert len(named) > 20  # or the pattern finds nothing any more
    # A decision may be named by its number alone.
    assert [
        found for found in sorted(named) if not (ROOT / found[0]).exists() and not list(ROOT.glob(f"{found[0]}*"))
    ] == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# What it tells (all of it)\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#what-it-tells-all-of-it) [b](none.md) [c](other.md#nope) [d](#e) [e](https://e.org/x)\n"
    )
    assert [line.split(":")[0] for line in broken(page)] == ["none.md", "other.md#nope", "#e"]
