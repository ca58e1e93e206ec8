"""How the gateway's log looks: lines for people, or one JSON object a line. The access log is always the latter."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter

FORMATS = ("text", "json")


def set_up(log_format: str, *, stream: TextIO = sys.stderr) -> None:
    """Everything from INFO on goes to `stream` in one of FORMATS."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(log_format))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _formatter(log_format: str) -> logging.Formatter:
    if log_format == "text":
        return logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    # A traceback is one string in "error", so that it does not fall apart into lines.
    names = {"levelname": "level", "name": "logger", "exc_info": "error"}
    return JsonFormatter("%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp="time")
