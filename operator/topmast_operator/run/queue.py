"""The work queue: keys that are due, each worked on by one worker at a time, merged while they wait.

Failures come back with exponential backoff and jitter. Knows nothing of what a key stands for.
"""

import asyncio
import heapq
import random
import time
from collections import defaultdict

Key = tuple[str, str]

DEBOUNCE_S = 0.05  # a change of one pod is several events
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 60.0


class WorkQueue:
    """Belongs to one event loop; `add` from elsewhere goes through call_soon_threadsafe."""

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._active: set[Key] = set()
        self._failures: defaultdict[Key, int] = defaultdict(int)
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: Key, delay_s: float = DEBOUNCE_S) -> None:
        """Have the key worked on in `delay_s` seconds at the latest; an earlier date stays."""
        due = time.monotonic() + delay_s
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
            self._changed.set()

    async def take(self) -> Key:
        """The next due key that nobody works on. Must be followed by `done`."""
        while True:
            wait_s = None
            later = []
            while self._heap:
                due, key = self._heap[0]
                if self._due.get(key) != due:
                    heapq.heappop(self._heap)  # replaced by an earlier date
                elif key in self._active:
                    later.append(heapq.heappop(self._heap))  # waits for its worker, whoever is behind it does not
                elif (wait_s := due - time.monotonic()) <= 0:
                    heapq.heappop(self._heap)
                    del self._due[key]
                    self._active.add(key)
                    self._restore(later)
                    return key
                else:
                    break
            self._restore(later)
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), wait_s)
            except TimeoutError:
                continue

    def done(self, key: Key, *, failed: bool) -> float | None:
        """Give a key back. After a failure it is due again after the returned number of seconds."""
        self._active.discard(key)
        self._changed.set()
        if not failed:
            self._failures.pop(key, None)
            return None
        self._failures[key] += 1
        longest_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._failures[key] - 1, 10))
        delay_s: float = longest_s * random.uniform(0.5, 1.0)
        self.add(key, delay_s)
        return delay_s

    def _restore(self, entries: list[tuple[float, Key]]) -> None:
        for entry in entries:
            heapq.heappush(self._heap, entry)
