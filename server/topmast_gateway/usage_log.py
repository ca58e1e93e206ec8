"""An append-only log of usage, one JSON object a line: who used how much of which model. Never a prompt, never a key.

A thread writes, so that a slow disk stops no stream. A full disk loses lines, says so once, and costs no request.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from topmast_gateway import periods
from topmast_gateway.usage import Use

log = logging.getLogger(__name__)

_MOST_LINES: Final = 10_000  # that wait for the disk
_LAST_S: Final = 5.0


class UsageLog:
    """Writes to a file, to one of its own in a directory that several gateways share, or with "-" to standard output.

    A file that was moved away is made anew: rotation needs no signal.
    """

    def __init__(self, where: str, replica: str) -> None:
        self._path = None if where == "-" else Path(where)
        if self._path and self._path.is_dir():
            self._path /= f"usage-{replica}.jsonl"
        self._replica = replica
        self._lines: queue.Queue[bytes | None] = queue.Queue(_MOST_LINES)
        self._fd: int | None = None if self._path else sys.stdout.fileno()
        self._failing = False
        self._torn = False  # the last line was cut by a full disk: the next begins on its own
        self.lost = 0
        self._thread = threading.Thread(target=self._write_all, name="usage log", daemon=True)
        self._thread.start()

    def write(self, use: Use) -> None:
        """Take one line, without waiting for anything."""
        try:
            self._lines.put_nowait(_line(use, self._replica))
        except queue.Full:
            self._lose(f"the disk is too slow: {_MOST_LINES} lines wait")

    def close(self) -> None:
        """Write what is left, for a moment."""
        try:
            self._lines.put(None, timeout=_LAST_S)
        except queue.Full:
            return
        self._thread.join(_LAST_S)

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            lines = [line]
            while len(lines) < 1000 and not self._lines.empty():
                if (line := self._lines.get()) is None:
                    self._write(b"".join(lines), len(lines))
                    return
                lines.append(line)
            self._write(b"".join(lines), len(lines))

    def _write(self, data: bytes, lines: int) -> None:
        try:
            fd = self._file()
            data = b"\n" + data if self._torn else data
            while data:
                written = os.write(fd, data)
                self._torn = written < len(data)
                data = data[written:]
        except OSError as error:
            self._lose(error.strerror or str(error), lines)
            return
        if self._failing:
            log.warning("the usage log is written again; %d lines were lost", self.lost)
        self._failing = False

    def _file(self) -> int:
        """The open file, if it still is the one at the path."""
        if self._path is None:
            assert self._fd is not None
            return self._fd
        if self._fd is not None:
            try:
                if os.path.samestat(os.fstat(self._fd), self._path.stat()):
                    return self._fd
            except FileNotFoundError:
                pass
            os.close(self._fd)
            self._fd, self._torn = None, False
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        return self._fd

    def _lose(self, why: str, lines: int = 1) -> None:
        self.lost += lines
        if not self._failing:
            self._failing = True
            log.error("the usage log cannot be written (%s): lines are lost until it can; requests go on", why)


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
                kinds = ("day", "month", periods.TOTAL)
                return [((who, caller, periods.name(kind, at)), used) for kind in kinds] if used > 0 else []
    except (ValueError, OverflowError):
        pass
    return []


def _line(use: Use, replica: str) -> bytes:
    tally = use.tally
    fields = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(use.at)),
        "at": round(use.at, 3),
        "request": use.request_id,
        "caller": use.caller,
        "model": use.model,
        "prompt": tally.prompt,
        "cached": tally.cached,
        "output": tally.output,
        "charged": tally.prompt + tally.output,
        "exact": tally.exact,
        "status": use.status,
        "finish": use.finish,
        "seconds": round(use.seconds, 3),
        "queued": round(use.queued_s, 3),
        "replica": replica,
    }
    return json.dumps(fields).encode() + b"\n"
