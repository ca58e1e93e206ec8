"""An append-only log of usage, one JSON object a line: who used how much of which model. Never a prompt, never a key.

What is charged against budgets is in it, so that gateways that all start anew take up where they were.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from topmast_gateway.limits import periods
from topmast_gateway.observability.caller_usage import UsageRecord
from topmast_gateway.observability.log_writer import LogWriter

log = logging.getLogger(__name__)

_KINDS: Final = ("day", "month", periods.TOTAL)
# Of one request's tokens and of a name: what is beyond was not written here.
_LARGEST: Final = 10**12
_LONGEST_NAME: Final = 256
_DAY_S: Final = 86_400
_LAST_TIME: Final = 1e11


class UsageLog:
    """Writes to a file, to one of its own in a directory that gateways share, or with "-" to standard output."""

    def __init__(self, where: str, replica: str) -> None:
        path = None if where == "-" else Path(where)
        if path and path.is_dir():
            path /= f"usage-{replica}.jsonl"
        self._replica = replica
        self._lines = LogWriter(path, "usage log")
        if path and _is_torn(path):
            self._lines.write(b"\n")

    @property
    def lost(self) -> int:
        """Lines that a full or slow disk has cost."""
        return self._lines.lost

    def write(self, record: UsageRecord) -> None:
        """Take one line, without waiting for anything."""
        self._lines.write(_line(record, self._replica))

    def write_open(self, at: float, caller: str, team: str, model: str, charged: int) -> None:
        """What open requests of a caller have used since the last such line; their own lines say the rest."""
        if charged:
            self._lines.write(_open_line(at, caller, team, model, charged, self._replica))

    def close(self) -> None:
        """Write what is left, for a moment."""
        self._lines.close()


def _is_torn(path: Path) -> bool:
    """Whether a gateway that was killed has left half a line, which would spoil the first one of this process."""
    try:
        if not path.is_file() or not path.stat().st_size:
            return False
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False  # the writer finds out, and says so


def replay(path: Path, now: float) -> list[list[Any]]:
    """Rows for Counters.merge: what the log says about the current and the previous day and month, and in total.

    Read are the file and its rotated ones, or every log in the directory, but for compressed ones.
    Each line names the gateway that counted it, so that peers who know it too are not counted twice. Lines that are
    no usage, such as one that a full disk has cut, are left out.
    """
    tokens: dict[tuple[str, str, str], int] = defaultdict(int)
    oldest = periods.oldest_kept(now)

    @cache
    def names_of(day: int) -> tuple[str, ...]:
        """The periods that a day belongs to and that still count."""
        names = (periods.name(kind, day * _DAY_S) for kind in _KINDS)
        return tuple(name for name in names if periods.is_kept(name, oldest))

    try:
        for part in path.glob("usage-*.jsonl*") if path.is_dir() else path.parent.glob(f"{path.name}*"):
            with part.open("rb") as file:
                for line in file:
                    if (charge := _charge(line)) is not None:
                        for name in names_of(int(charge.at // _DAY_S)):
                            for account in charge.accounts:
                                tokens[charge.replica, account, name] += charge.charged
    except OSError as error:
        log.error("the usage log %s cannot be read (%s): budgets start from what other gateways know", path, error)
    return [[*entry, 0, used, 0] for entry, used in tokens.items() if used > 0]


class _Charge(msgspec.Struct):
    """What is read of a line."""

    replica: str
    caller: str
    charged: int
    at: float
    team: str = ""

    @property
    def accounts(self) -> tuple[str, ...]:
        """Whose counts it is in."""
        return (self.caller, f"team:{self.team}") if self.team else (self.caller,)


_decoder = msgspec.json.Decoder(_Charge)


def _charge(line: bytes) -> _Charge | None:
    """What a line says; nothing when it is no usage."""
    try:
        found = _decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
    fits = (
        abs(found.charged) <= _LARGEST and max(len(found.replica), len(found.caller), len(found.team)) <= _LONGEST_NAME
    )
    return found if fits and found.charged and 0 <= found.at < _LAST_TIME else None


def _open_line(at: float, caller: str, team: str, model: str, charged: int, replica: str) -> bytes:
    fields = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)),
        "at": round(at, 3),
        "caller": caller,
        **({"team": team} if team else {}),
        "model": model,
        "charged": charged,
        "finish": "open",
        "replica": replica,
    }
    return json.dumps(fields).encode() + b"\n"


def _line(record: UsageRecord, replica: str) -> bytes:
    usage = record.usage
    fields = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.at)),
        "at": round(record.at, 3),
        "request": record.request_id,
        "caller": record.caller,
        **({"team": record.team} if record.team else {}),
        "model": record.model,
        "prompt": usage.prompt,
        "cached": usage.cached,
        "output": usage.output,
        "charged": usage.prompt + usage.output - record.charged_before,
        "exact": usage.exact,
        "status": record.status,
        "finish": record.finish,
        "seconds": round(record.seconds, 3),
        "queued": round(record.queued_s, 3),
        "replica": replica,
    }
    return json.dumps(fields).encode() + b"\n"
