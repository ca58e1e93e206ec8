"""The progress page: what the engine did last, readable without asking it.

One page of shared memory with one writer (the engine process) and any number of readers, without locks: every
field is one aligned 8-byte word. A probe that reads it never waits for the engine.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from dataclasses import dataclass

_PAGE_BYTES = mmap.PAGESIZE
_WORD_BYTES = 8
_STEPS, _LAST_TICK_S, _HAS_WORK, _SLOWEST_STEP_S = (i * _WORD_BYTES for i in range(4))
_RECENT_STEPS = 64  # how many steps "recent" means for the slowest one
IDLE_TICK_S = 2.0  # the engine writes the page at least this often, idle or not, except within one long step


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One reading of the page; times are seconds of CLOCK_MONOTONIC, which all processes share."""

    steps: int  # finished steps since the start
    last_tick_s: float  # when the engine last finished a step, found nothing to do, or went on loading; 0: never
    has_work: bool  # a step is due or under way
    slowest_recent_step_s: float

    def age_s(self) -> float:
        """Seconds since the last sign of progress."""
        return time.monotonic() - self.last_tick_s if self.last_tick_s else 0.0


class Progress:
    """The page itself. The parent makes one and hands `fileno()` to the engine process, which opens that fd."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd = _new_page() if fd is None else fd
        self._page = mmap.mmap(self._fd, _PAGE_BYTES)
        self._recent = [0.0] * _RECENT_STEPS
        self._steps = 0

    def fileno(self) -> int:
        """The file descriptor to pass to the engine process."""
        return self._fd

    def close(self) -> None:
        """Release the page; the other side keeps its own view."""
        self._page.close()
        os.close(self._fd)

    def read(self) -> Snapshot:
        """Reader: the latest words."""
        steps, last_tick_s, has_work, slowest = struct.unpack_from("<qdqd", self._page, 0)
        return Snapshot(steps, last_tick_s, bool(has_work), slowest)

    def tick(self, *, has_work: bool) -> None:
        """Writer: still alive, between two steps."""
        struct.pack_into("<q", self._page, _HAS_WORK, int(has_work))
        struct.pack_into("<d", self._page, _LAST_TICK_S, time.monotonic())

    def step_done(self, seconds: float, *, has_work: bool) -> None:
        """Writer: one step finished after `seconds`; `has_work` says whether another one follows."""
        self._recent[self._steps % _RECENT_STEPS] = seconds
        self._steps += 1
        struct.pack_into("<q", self._page, _STEPS, self._steps)
        struct.pack_into("<d", self._page, _SLOWEST_STEP_S, max(self._recent))
        self.tick(has_work=has_work)


def _new_page() -> int:
    """An anonymous file of one page that survives exec; memfd where the kernel has it."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("topmast-progress", 0)
    else:
        fd, path = tempfile.mkstemp(prefix="topmast-progress-")
        os.unlink(path)  # noqa: PTH108
    os.ftruncate(fd, _PAGE_BYTES)
    return fd
