"""The first start on a machine: compile the CPU kernels beside the serving engine, then switch over.

In a process of its own at low priority, so that the compiler takes neither the interpreter lock nor a core by force.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from topmast_kernels.cpu import cache

_PR_SET_PDEATHSIG = 1


class BackgroundCompile:
    """A compiler process, where the cache is incomplete and can be written."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if cache.cache_folder() is not None and not cache.is_complete():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "topmast_kernels.cpu.compile"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=_gentle_and_mortal,
                env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
            )

    @property
    def running(self) -> bool:
        """Whether it is worth asking again."""
        return self._process is not None

    def finished(self) -> bool:
        """True once: when the cache has just become complete."""
        if self._process is None or self._process.poll() is None:
            return False
        self._process = None
        return cache.is_complete()

    def wait(self, tick: Callable[[], None]) -> None:
        """Until the compiler has ended; `tick` is called ten times a second."""
        while self._process is not None and self._process.poll() is None:
            tick()
            time.sleep(0.1)
        self._process = None

    def stop(self) -> None:
        """End the compiler with the engine."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _gentle_and_mortal() -> None:
    """In the child: yield to everybody, and die with the engine however that ends."""
    os.nice(10)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
