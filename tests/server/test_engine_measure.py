"""What a start learns about the CPU, the next one knows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from topmast_kernels.cpu import cache
from topmast_server.engine import measure

KERNELS: Any = SimpleNamespace(threads=2, linear_bf16=None)


class Counted:
    """Stands in for the measuring itself, which test_engine_speed.py covers."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, model: Any, kernels: Any) -> tuple[int, str]:
        self.times += 1
        return 16, f"measured {self.times}"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counted:
    counted = Counted()
    monkeypatch.setattr(measure, "measure_bf16_rows", counted)
    monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path)
    return counted


def model(rows: int = 64) -> Any:
    projection = SimpleNamespace(rows=rows, columns=32, matrices=[])
    return SimpleNamespace(attention_in=[projection], mlp_in=[projection], mlp_out=[projection])


def test_the_second_start_does_not_measure_again(measured: Counted) -> None:
    first = measure.known_bf16_rows(model(), KERNELS)
    assert measure.known_bf16_rows(model(), KERNELS) == first == (16, "measured 1")


def test_another_model_is_measured_for_itself(measured: Counted) -> None:
    measure.known_bf16_rows(model(), KERNELS)
    assert measure.known_bf16_rows(model(rows=128), KERNELS)[1] == "measured 2"


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"bf16_rows": "many"}'])
def test_a_damaged_note_is_measured_anew(measured: Counted, tmp_path: Path, damage: str) -> None:
    measure.known_bf16_rows(model(), KERNELS)
    (note,) = tmp_path.glob("bf16-*.json")
    note.write_text(damage)
    assert measure.known_bf16_rows(model(), KERNELS)[1] == "measured 2"
    assert measure.known_bf16_rows(model(), KERNELS)[1] == "measured 2"


def test_without_a_place_to_write_every_start_measures(measured: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "cache_folder", lambda: None)
    measure.known_bf16_rows(model(), KERNELS)
    assert measure.known_bf16_rows(model(), KERNELS)[1] == "measured 2"
