"""How the time of a parser grows with its input: what anybody may send must not stop the loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Input = TypeVar("Input")

MOST_S = 0.05  # of the loop, for the largest input that is let in
_NOISE_S = 0.02  # below it a ratio says nothing: memory that is new to the process alone takes milliseconds
_RATIO = 2.5  # of the time for twice the input


def assert_linear(make: Callable[[int], Input], read: Callable[[Input], object], largest: int) -> None:
    """`read` takes at most 50 ms for an input of the size `largest`, and at most 2.5 times as long as for half of it.

    Processor seconds of this thread, the least of several tries: other processes share the machine.
    """
    half, full = _least_s(make(largest // 2), read), _least_s(make(largest), read)
    assert full <= MOST_S, f"{full * 1000:.0f} ms for {largest}"
    assert full <= max(_RATIO * half, _NOISE_S), (
        f"{half * 1000:.1f} ms for half of it, {full * 1000:.1f} ms for {largest}"
    )


def _least_s(given: Input, read: Callable[[Input], object], tries: int = 5) -> float:
    found = []
    for _ in range(tries):
        began = time.thread_time()
        read(given)
        found.append(time.thread_time() - began)
        if found[-1] > 1:
            break
    return min(found)
