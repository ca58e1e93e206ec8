"""Lines of a log, written by a thread, so that a slow disk or a stuck reader stops no stream.

A full disk loses lines, says so once, and costs no request. What a line says is its writer's business.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_MOST_LINES: Final = 10_000  # that wait for the disk
_LAST_S: Final = 5.0
_GATHER_S: Final = 0.05  # waking the thread for every line costs a request 8 % more CPU


class LogWriter:
    """Appends to a file, or to standard output where that is None. `what` is its name in complaints.

    A file that was moved away is created again: rotation needs no signal.
    """

    def __init__(self, path: Path | None, what: str) -> None:
        self._path = path
        self._what = what
        self._lines: queue.Queue[bytes | None] = queue.Queue(_MOST_LINES)
        self._fd: int | None = None if self._path else sys.stdout.fileno()
        self._failing = False
        self._torn = False  # the last line was cut by a full disk: the next begins on its own
        self.lost = 0
        self._thread = threading.Thread(target=self._write_all, name=what, daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take one line, its end included, without waiting for anything."""
        try:
            self._lines.put_nowait(line)
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
            time.sleep(_GATHER_S)
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
            log.warning("the %s is written again; %d lines were lost", self._what, self.lost)
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
            message = "the %s cannot be written (%s): lines are lost until it can; requests are still served"
            log.error(message, self._what, why)
