"""kopf in its thread: what it was told to watch ends up in the indices, and it can begin anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from operatorlab import bodies
from operatorlab.slow_api import slow_api

from topmast_operator.watch.mirror import Indices, keys_of
from topmast_operator.watch.records import ModelRef
from topmast_operator.watch.watcher import Watcher


class Bell:
    """What kopf's handlers call, noted."""

    def __init__(self) -> None:
        self.attached: list[Indices] = []
        self.woken: list[tuple[str, str]] = []
        self.names: list[tuple[str, Any, Any]] = []
        self.lists = 0

    def attach(self, indices: Indices) -> None:
        self.attached.append(indices)

    def changed(self, namespace: str, model: str, uid: str, version: str) -> None:
        self.woken.append((namespace, model))

    def renamed(self, model: ModelRef, before: Any, after: Any) -> None:
        self.names.append((model.name, before, after))

    def listed(self) -> None:
        self.lists += 1

    def freed(self, namespace: str | None = None) -> None:
        """Nobody waits here."""

    gone: Any = freed


def until(look: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not look():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_watching_that_begins_anew_fills_new_indices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bell = Bell()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    access = {"aliases": ["gpt", "chat"], "fallbacks": ["b", "team/c"]}
    body = {**bodies.model(access=access), "apiVersion": "topmast.dev/v1alpha1"}
    with slow_api(tmp_path / "kubeconfig", [body], write_s=0.0) as api:
        watcher = Watcher((), bell)  # type: ignore[arg-type]
        watcher.start()
        try:
            until(lambda: bell.woken == [("ns", "m")])
            assert bell.lists == 1
            (first,) = bell.attached
            assert first.nodes is not None and keys_of(first.models) == [("ns", "m")]
            watcher.restart()
            until(lambda: len(bell.attached) == 2 and len(bell.woken) == 2)
            assert bell.attached[1] is not first and keys_of(bell.attached[1].models) == [("ns", "m")]
            assert set(keys_of(bell.attached[1].aliases)) == {("ns", "gpt"), ("ns", "chat")}
            assert set(keys_of(bell.attached[1].fallbacks)) == {("ns", "b"), ("team", "c")}
            assert bell.names == [("m", None, frozenset({"gpt", "chat"}))] * 2
            assert watcher.alive
        finally:
            stopping = time.monotonic()
            watcher.stop()
        assert not watcher.alive and time.monotonic() - stopping < 3
        assert api.writes == [], "kopf writes nothing"
