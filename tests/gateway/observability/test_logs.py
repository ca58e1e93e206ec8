"""What collects logs gets one object a line from the gateway, and people get what they always got."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from topmast_gateway import cli
from topmast_gateway.observability import logs


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """The root logger, afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def said(log_format: str) -> list[str]:
    """What comes of a few messages, by line."""
    stream = io.StringIO()
    logs.set_up(log_format, stream=stream)
    logging.getLogger("topmast_gateway.keys").info("%d keys are known", 2)
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        logging.getLogger("topmast_gateway.cli").exception("the gateway failed")
    return stream.getvalue().splitlines()


def test_json_is_one_object_a_line_also_for_a_traceback() -> None:
    first, second = (json.loads(line) for line in said("json"))
    assert (first["level"], first["logger"], first["message"]) == ("INFO", "topmast_gateway.keys", "2 keys are known")
    assert first["time"].endswith("+00:00") and "T" in first["time"]
    assert second["message"] == "the gateway failed"
    assert second["error"].startswith("Traceback") and second["error"].endswith("ValueError: broken\nin two")


def test_text_is_a_line_for_people() -> None:
    first, *_, last = said("text")
    assert first.endswith(" INFO 2 keys are known")
    assert last == "in two"


def test_the_flag_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def set_up(log_format: str) -> None:
        heard.append(log_format)
        raise SystemExit

    monkeypatch.setattr(logs, "set_up", set_up)
    for more in ([], ["--log-format=json"]):
        monkeypatch.setattr(sys, "argv", ["topmast gateway", "--keys-secret=keys", *more])
        with pytest.raises(SystemExit):
            cli.main()
    assert heard == ["text", "json"]
