"""What a start learns about the CPU, the next one knows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from topmast_kernels.cpu import cache
from topmast_server.engine import measure
from topmast_server.models.llama import Crossover


class Counted:
    """Stands in for the measuring itself, which tests/server/test_engine_speed.py covers."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, model: Any, kernels: Any) -> tuple[Crossover, str]:
        self.times += 1
        return Crossover(65, 1 << 30), f"measured {self.times}"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counted:
    counted = Counted()
    monkeypatch.setattr(measure, "measure_crossover", counted)
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    return counted


def model(rows: int = 64) -> Any:
    projection = SimpleNamespace(rows=rows, columns=32, matrices=[])
    return SimpleNamespace(attention_in=[projection], mlp_in=[projection], mlp_out=[projection], dtype=torch.float32)


def test_the_second_start_does_not_measure_again(measured: Counted) -> None:
    first = measure.known_crossover(model(), None)
    assert measure.known_crossover(model(), None) == first == (Crossover(65, 1 << 30), "measured 1")


def test_another_model_is_measured_for_itself(measured: Counted) -> None:
    measure.known_crossover(model(), None)
    assert measure.known_crossover(model(rows=128), None)[1] == "measured 2"


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"torch_layers": "many"}'])
def test_a_damaged_note_is_measured_anew(measured: Counted, tmp_path: Path, damage: str) -> None:
    measure.known_crossover(model(), None)
    (note,) = tmp_path.glob("crossover-*.json")
    note.write_text(damage)
    assert measure.known_crossover(model(), None)[1] == "measured 2"
    assert measure.known_crossover(model(), None)[1] == "measured 2"


def test_without_a_place_to_write_every_start_measures(measured: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: None)
    measure.known_crossover(model(), None)
    assert measure.known_crossover(model(), None)[1] == "measured 2"
