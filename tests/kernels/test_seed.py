"""Compiled kernels that an image brings along are used at once, and only where they fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from topmast_kernels.cpu import cache


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An image's folder of compiled kernels and a first start with an empty, writable cache."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "seed_folder", lambda: tmp_path / "seed")
    cache.cache_folder.cache_clear()
    seed = tmp_path / "seed" / f"topmast-{cache._fingerprint()}"
    (seed / "cpu").mkdir(parents=True)
    (seed / "cpu" / "linear.nbc").write_bytes(b"machine code")
    yield seed
    cache.cache_folder.cache_clear()


def test_kernels_of_the_image_are_there_at_the_first_start(image: Path) -> None:
    (image / cache._marker()).touch()
    folder = cache.cache_folder()
    assert folder is not None and cache.is_complete()
    assert (folder / "cpu" / "linear.nbc").read_bytes() == b"machine code"


def test_kernels_for_another_cpu_are_left_where_they_are(image: Path) -> None:
    (image / "complete-another-cpu").touch()
    folder = cache.cache_folder()
    assert folder is not None and not cache.is_complete()
    assert list(folder.iterdir()) == []
