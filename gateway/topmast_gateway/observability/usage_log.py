"""An append-only log of usage, one JSON object a line: who used how much of which model. Never a prompt, never a key.

What is charged against budgets is in it, so that gateways that all start anew take up where they were.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from topmast_gateway.limits import periods
from topmast_gateway.observability.caller_usage import UsageRecord
from topmast_gateway.observability.log_writer import LogWriter

log = logging.getLogger(__name__)

_KINDS: Final = ("day", "month", periods.TOTAL)
# Of one request's tokens and of a name: what is beyond was not written here.
_LARGEST: Final = 10**12
_LONGEST_NAME: Final = 256


class UsageLog:
    """Writes to a file, to one of its own in a directory that gateways share, or with "-" to standard output."""

    def __init__(self, where: str, replica: str) -> None:
        path = None if where == "-" else Path(where)
        if path and path.is_dir():
            path /= f"usage-{replica}.jsonl"
        self._replica = replica
        self._lines = LogWriter(path, "usage log")

    @property
    def lost(self) -> int:
        """Lines that a full or slow disk has cost."""
        return self._lines.lost

    def write(self, record: UsageRecord) -> None:
        """Take one line, without waiting for anything."""
        self._lines.write(_line(record, self._replica))

    def close(self) -> None:
        """Write what is left, for a moment."""
        self._lines.close()


def replay(path: Path, now: float) -> list[list[Any]]:
    """Rows for Counters.merge: what the log says about the current and the previous day and month, and in total.

    Read are the file and its rotated ones, or every log in the directory, but for compressed ones.
    Each line names the gateway that counted it, so that peers who know it too are not counted twice. Lines that are
    no usage, such as one that a full disk has cut, are left out.
    """
    tokens: dict[tuple[str, str, str], int] = defaultdict(int)
    oldest = periods.oldest_kept(now)
    try:
        for part in path.glob("usage-*.jsonl*") if path.is_dir() else path.parent.glob(f"{path.name}*"):
            with part.open("rb") as file:
                for line in file:
                    for entry, used in _charges(line):
                        if periods.is_kept(entry[2], oldest):
                            tokens[entry] += used
    except OSError as error:
        log.error("the usage log %s cannot be read (%s): budgets start from what other gateways know", path, error)
    return [[*entry, 0, used, 0] for entry, used in tokens.items()]


def _charges(line: bytes) -> list[tuple[tuple[str, str, str], int]]:
    """What a line says, for each kind of period; nothing when it is no usage."""
    try:
        match json.loads(line):
            case {"replica": str(who), "caller": str(caller), "charged": int(used), "at": int() | float() as at}:
                if 0 < used <= _LARGEST and max(len(who), len(caller)) <= _LONGEST_NAME:
                    return [((who, caller, periods.name(kind, at)), used) for kind in _KINDS]
    except (ValueError, OverflowError, RecursionError):
        pass
    return []


def _line(record: UsageRecord, replica: str) -> bytes:
    usage = record.usage
    fields = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.at)),
        "at": round(record.at, 3),
        "request": record.request_id,
        "caller": record.caller,
        "model": record.model,
        "prompt": usage.prompt,
        "cached": usage.cached,
        "output": usage.output,
        "charged": usage.prompt + usage.output,
        "exact": usage.exact,
        "status": record.status,
        "finish": record.finish,
        "seconds": round(record.seconds, 3),
        "queued": round(record.queued_s, 3),
        "replica": replica,
    }
    return json.dumps(fields).encode() + b"\n"
