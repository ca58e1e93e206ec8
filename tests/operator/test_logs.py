"""What collects logs gets one object a line from the operator, and people get what they always got."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from topmast_operator import cli as command
from topmast_operator.run import logs


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Every logger that is set up here, afterwards."""
    root = logging.getLogger()
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in ("", "kopf")}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def said(log_format: str, **options: bool) -> list[str]:
    """What comes of a few messages, by line."""
    stream = io.StringIO()
    logs.set_up(log_format, stream=stream, **options)
    log = logging.getLogger("topmast_operator.run.worker")
    log.debug("looking")
    log.info("%s is ready: %d of %d", "default/smollm2", 1, 1)
    logging.getLogger("kopf.objects").info("one line per event")
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        log.exception("a pass\nfailed")
    return stream.getvalue().splitlines()


def test_json_is_one_object_a_line_also_for_a_traceback() -> None:
    first, second = (json.loads(line) for line in said("json"))
    assert first["message"] == "default/smollm2 is ready: 1 of 1"
    assert (first["level"], first["logger"]) == ("INFO", "topmast_operator.run.worker")
    assert first["time"].endswith("+00:00") and "T" in first["time"]
    assert second["message"] == "a pass\nfailed" and second["level"] == "ERROR"
    assert second["error"].startswith("Traceback") and second["error"].endswith("ValueError: broken\nin two")


def test_text_is_a_line_for_people() -> None:
    first, *_, last = said("text")
    assert first.endswith(" INFO topmast_operator.run.worker: default/smollm2 is ready: 1 of 1")
    assert last == "in two"


@pytest.mark.parametrize("log_format", logs.FORMATS)
def test_verbose_tells_more(log_format: str) -> None:
    assert not any("looking" in line for line in said(log_format))
    assert "looking" in said(log_format, verbose=True)[0]


def test_the_flags_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []

    def set_up(log_format: str, *, verbose: bool) -> None:
        heard.extend((log_format, verbose))
        raise SystemExit

    monkeypatch.setattr(logs, "set_up", set_up)
    for more in ([], ["--log-format=json", "--verbose"]):
        monkeypatch.setattr(sys, "argv", ["topmast operator", "--engine-image=i", *more])
        with pytest.raises(SystemExit):
            command.main()
    assert heard == ["text", False, "json", True]
