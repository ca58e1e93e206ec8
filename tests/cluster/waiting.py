"""Waits for what a cluster does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(what: Callable[[], bool], timeout_s: float = 60) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
