"""docs/gateway/reference.md says what the gateway's code says: flags, error codes, metrics."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import gateway_reference  # noqa: E402


def test_the_tables_are_those_of_the_code() -> None:
    page = gateway_reference.PAGE.read_text()
    assert page == gateway_reference.written(page), "write them anew: python tests/docs/gateway_reference.py --write"


def test_every_error_code_is_explained_and_no_other() -> None:
    codes = gateway_reference.error_codes()
    assert len(codes) > 30
    assert sorted(gateway_reference.meanings()) == sorted(codes)


def test_a_code_that_is_no_literal_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("def answer(code):\n    raise ApiError(400, code, 'no')\n")
    with pytest.raises(ValueError, match=r"new\.py:2: write the code as a literal"):
        gateway_reference.error_codes(tmp_path)


def test_a_code_beneath_a_wrapper_is_found_with_its_status(tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("raise unavailable('asleep', 'later', 5)\nself._no('expired', 'no')\n")
    assert gateway_reference.error_codes(tmp_path) == {"asleep": {"503"}, "invalid_api_key": {"401"}}
