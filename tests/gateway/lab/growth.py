"""How the time of a parser grows with its input: what anybody may send must not stop the loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from typing import TypeVar

Input = TypeVar("Input")

_MOST_S = 0.05  # of the loop, for the largest input that is let in
_BRACKETS = "[" + "[]," * (1024 * 1024 // 3) + "0]"
_NOISE = 0.6  # of the bound; below it a ratio says nothing: memory that is new to the process takes milliseconds
_RATIO = 2.5  # of the time for twice the input
_TRIES, _ROUNDS = 7, 5


@cache
def most_s() -> float:
    """50 ms; on a slow machine more, as json.loads takes more there: on a fast one 20 ms for a MiB of brackets."""
    with without_collections():
        return max(_MOST_S, 2.5 * _least_s(_BRACKETS, json.loads))


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """No garbage collection of this process, whose other tests have left millions of objects, while time is taken."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def assert_stops_nobody(page: Callable[[], AsyncIterator[bytes]]) -> None:
    """Between two pieces of a page the loop is kept for at most `most_s`; the best of some tries counts."""
    tries = []
    with without_collections():
        for _ in range(_TRIES):
            longest_s, last = 0.0, time.thread_time()
            async for _ in page():
                await asyncio.sleep(0)
                now = time.thread_time()
                longest_s, last = max(longest_s, now - last), now
            tries.append(longest_s)
            if longest_s < most_s():
                return
    raise AssertionError(f"the loop was kept for {min(tries) * 1000:.0f} ms")


def assert_linear(make: Callable[[int], Input], read: Callable[[Input], object], largest: int) -> None:
    """`read` takes at most `most_s` for an input of this size, and at most 2.5 times as long as for half of it.

    Processor seconds of this thread, the least of several tries: other processes share the machine.
    """
    full, all_of_it = assert_growth(make, read, largest), make(largest)
    with without_collections():
        for _ in range(_ROUNDS):
            if full <= most_s():
                return
            full = min(full, _least_s(all_of_it, read))
    raise AssertionError(f"{full * 1000:.0f} ms for {largest}")


def assert_growth(make: Callable[[int], Input], read: Callable[[Input], object], largest: int) -> float:
    """The second half of `assert_linear`, for what takes many turns of the loop; the seconds for all of it.

    Where the ratio is too large, both are measured again, one after the other: a machine may be slower for a while.
    """
    half_of_it, all_of_it = make(largest // 2), make(largest)
    half = full = float("inf")
    with without_collections():
        for _ in range(_ROUNDS):
            half, full = min(half, _least_s(half_of_it, read)), min(full, _least_s(all_of_it, read))
            if full <= max(_RATIO * half, _NOISE * most_s()):
                return full
    raise AssertionError(f"{half * 1000:.1f} ms for half of it, {full * 1000:.1f} ms for {largest}")


def _least_s(given: Input, read: Callable[[Input], object]) -> float:
    found = []
    for _ in range(_TRIES):
        began = time.thread_time()
        read(given)
        found.append(time.thread_time() - began)
        if found[-1] > 1:
            break
    return min(found)
