"""The map is true: every module says what it is, and docs/architecture.md shows the packages that there are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import module_map  # noqa: E402


@pytest.mark.parametrize("part", module_map.PARTS)
def test_every_module_begins_with_what_it_is(part: str) -> None:
    lines = dict(module_map.modules(part))
    assert len(lines) > 10
    assert [str(path.relative_to(ROOT)) for path, line in lines.items() if not line] == []


def test_the_page_shows_the_packages_that_there_are() -> None:
    page = module_map.PAGE.read_text()
    assert page == module_map.written(page), "write it anew: python tests/docs/module_map.py --write"


def test_a_folder_of_the_gateway_is_a_list_that_one_reads() -> None:
    folders = [*(ROOT / "gateway").rglob("*"), *(ROOT / "tests" / "gateway").rglob("*")]
    sizes = {
        str(folder.relative_to(ROOT)): sum(entry.name != "__pycache__" for entry in folder.iterdir())
        for folder in folders
        if folder.is_dir() and folder.name != "__pycache__"
    }
    assert len(sizes) > 20
    assert {folder: size for folder, size in sizes.items() if size > 20} == {}
