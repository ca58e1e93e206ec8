"""Where compiled kernels are kept, and what happens where nothing can be kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from topmast_kernels.cpu import cache


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    cache.cache_folder.cache_clear()
    yield
    cache.cache_folder.cache_clear()


def test_the_named_folder_is_used_and_remembers_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folder = cache.cache_folder()
    assert folder is not None
    assert folder.parent == tmp_path
    assert not cache.is_complete()
    cache.mark_complete()
    assert cache.is_complete()


def test_a_cache_from_another_kind_of_cpu_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folder = cache.cache_folder()
    assert folder is not None
    (folder / "complete-0123456789ab").touch()
    assert not cache.is_complete()


def test_a_cache_of_the_same_sources_elsewhere_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # numba keeps by the source's path: a second checkout said "complete" and compiled for 45 s in its warm-up.
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    cache.mark_complete()
    assert cache.is_complete()
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "elsewhere" / "cpu" / "cache.py"))
    assert not cache.is_complete()


def test_no_writable_place_means_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for variable in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "file" / "below"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert cache.cache_folder() is None
    assert not cache.is_complete()


def test_a_named_folder_that_is_of_no_use_gives_way_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    folder = cache.cache_folder()
    assert folder is not None
    assert folder.is_relative_to(tmp_path / "user")
