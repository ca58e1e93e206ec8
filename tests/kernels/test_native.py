"""Machine code that is kept between starts: used again, and compiled anew where it is damaged."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import binding

from topmast_kernels.cpu import native
from topmast_kernels.cpu.vector import I64, const, load, store


def increment(builder: Any, address: Any) -> None:
    store(builder, builder.add(load(builder, address, I64), const(1)), address)


def incremented(value: int) -> int:
    """By the function that the last `link` has made."""
    native.link({"test_increment": (1, increment)})
    number = np.array([value])
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64)(binding.address_of_symbol("topmast_test_increment"))
    function(number.ctypes.data)
    return int(number[0])


@pytest.mark.parametrize("damage", [b"", b"not machine code", None])
def test_damaged_machine_code_is_compiled_anew(tmp_path: Path, monkeypatch: Any, damage: bytes | None) -> None:
    monkeypatch.setattr(native, "cache_folder", lambda: tmp_path)
    assert incremented(41) == 42
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert incremented(1) == 2
    assert kept.read_bytes() == whole


def test_kept_machine_code_is_not_compiled_again(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(native, "cache_folder", lambda: tmp_path)
    assert incremented(41) == 42
    monkeypatch.setattr(native, "_optimised", None)
    assert incremented(1) == 2


def test_functions_work_where_nothing_can_be_kept(monkeypatch: Any) -> None:
    monkeypatch.setattr(native, "cache_folder", lambda: None)
    assert incremented(41) == 42
