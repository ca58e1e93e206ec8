"""Who goes next at one model, and who may wait: priorities above fair shares, and a bounded queue.

Pure: the clock is an argument, and dispatcher.py does the waiting. A lower priority that has waited long enough gets
one slot in PASSES + 1: it never starves, and costs the higher ones a known part. Where several callers come, places are
kept for those below their share, who would wait for a noisy one's answers to end otherwise, and a noisy one's prompts
go one after another, because engines compute them in the order of their arrival.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Container
from dataclasses import dataclass
from typing import Final

from topmast_gateway.fairness.virtual_token_counter import QueueEntry, VirtualTokenCounter
from topmast_gateway.identity.caller import Caller, Priority

_PRIORITIES: Final = tuple(Priority)  # each is its own index
STARVED_AFTER_S: Final = 10.0  # a priority that has waited this long is no longer passed over without end
PASSES: Final = 7  # higher ones that are served before it is
ACTIVE_S: Final = 10.0  # a caller counts as one who comes for so long after its last request
# An engine with a journal reports a prompt's size at once; of others nobody knows when they begin.
JOURNAL_GRACE_S: Final = 0.1
_PLACES_PER_PROMPT: Final = 32  # that is not computed yet, beside which a noisy caller gets no further slot
_MEASURE_S: Final = 0.05  # how often running requests are charged
_DRAIN_SAMPLES: Final = 32  # from so many the speed of the queue is known


@dataclass(frozen=True, slots=True)
class QueueFull:
    """No place in the queue. `own` says whether the caller itself fills its share of it."""

    own: bool


def reserved_places(places: int) -> int:
    """Of so many places, those that not everybody may have who comes first.

    So many, because a noisy caller that fills an engine slows every step of it: what is left must be enough for others
    whose answers take longer now.
    """
    return places * 2 // 3


class FairQueue:
    """The queue of one model. Every entry ends by `leave` while it waits, or by `finish` once it was served."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._by_priority = [VirtualTokenCounter() for _ in _PRIORITIES]
        self._passed = [0 for _ in _PRIORITIES]  # higher ones served while this one waited
        self._running: set[QueueEntry] = set()
        self._prompts: dict[QueueEntry, float] = {}  # of running requests, those without a token: since when
        self._places: Counter[str] = Counter()  # of running requests, by caller
        self._seen: dict[str, tuple[float, float]] = {}  # callers who come: weight, and when they came last
        self._measured_s = 0.0
        self._served_at_s: deque[float] = deque(maxlen=_DRAIN_SAMPLES)  # of the current queue
        self.waiting = 0

    @property
    def running(self) -> int:
        """Requests that were let through and have not ended."""
        return len(self._running)

    @property
    def idle(self) -> bool:
        """Nobody waits and nothing runs: whatever else it knows has no effect on who comes next."""
        return not self.waiting and not self._running

    def arrive(self, entry: QueueEntry) -> QueueFull | QueueEntry | None:
        """Stand in line. Full when there is no place; an entry that lost its own place to this one, else None.

        Who waits with less than its share always gets in: the newest request of whoever has most has to go.
        """
        name, weight = entry.caller.name, entry.caller.weight
        bumped = None
        if self.waiting >= self._max_waiting:
            lengths = self._lengths()
            mine = lengths[name][1] if name in lengths else 0
            if mine == self.waiting:
                return QueueFull(own=False)
            if mine + 1 > self._max_waiting * self.share(entry.caller):
                return QueueFull(own=mine > 0)
            greediest = max(lengths, key=lambda other: lengths[other][1] / lengths[other][0])
            bumped = next(
                found for priority in reversed(_PRIORITIES) if (found := self._by_priority[priority].newest(greediest))
            )
            self.leave(bumped)
        self._seen[name] = (weight, entry.arrived_s)
        self._by_priority[entry.priority].arrive(entry)
        self.waiting += 1
        return bumped

    def leave(self, entry: QueueEntry) -> None:
        """Go unserved."""
        self._by_priority[entry.priority].leave(entry)
        self._one_less()

    def next(self, now_s: float, free: int) -> QueueEntry | None:
        """Let one through to one of `free` places; None when nobody who waits may have it."""
        if free <= 0 or not self.waiting:
            return None
        self.measure(now_s)
        allowed = self._allowed(now_s, free)
        priority = self._next_priority(now_s, allowed)
        if priority is None:
            return None
        self._passed[priority] = 0
        for worse in _PRIORITIES:
            if worse > priority:
                self._passed[worse] = self._passed[worse] + 1 if self._by_priority[worse].waiting else 0
        entry = self._by_priority[priority].pop(allowed)
        self._running.add(entry)
        self._prompts[entry] = now_s
        self._places[entry.caller.name] += 1
        self._served_at_s.append(now_s)
        self._one_less()
        return entry

    def runs(self, entry: QueueEntry) -> bool:
        """Whether the entry was let through and has not ended."""
        return entry in self._running

    def finish(self, entry: QueueEntry) -> None:
        """A request that was let through has ended."""
        self._running.remove(entry)
        self._prompts.pop(entry, None)
        name = entry.caller.name
        self._places[name] -= 1
        if not self._places[name]:
            del self._places[name]
        self._by_priority[entry.priority].finish(entry)

    def measure(self, now_s: float) -> None:
        """Charge what running requests have got since the last time, and see who still comes, now and then."""
        if now_s - self._measured_s < _MEASURE_S:
            return
        self._measured_s = now_s
        for entry in self._running:
            self._by_priority[entry.priority].charge(entry)
        waiting = self._lengths()
        for name in [name for name, (_, at_s) in self._seen.items() if now_s - at_s > ACTIVE_S]:
            if name not in waiting and name not in self._places:
                del self._seen[name]

    def share(self, caller: Caller) -> float:
        """The caller's part among those who wait, itself included: 1 when nobody else does."""
        others = sum(weight for name, (weight, _) in self._lengths().items() if name != caller.name)
        return caller.weight / (caller.weight + others)

    def wait_s(self, caller: Caller, now_s: float) -> float | None:
        """How long one more request of the caller would wait, from how the queue drains; None while nobody knows."""
        if len(self._served_at_s) < _DRAIN_SAMPLES // 4 or now_s <= self._served_at_s[0]:
            return None
        per_s = len(self._served_at_s) / (now_s - self._served_at_s[0])
        mine = self._lengths().get(caller.name, (caller.weight, 0))[1]
        return (mine + 1) / (per_s * self.share(caller))

    def _allowed(self, now_s: float, free: int) -> Container[str]:
        """Everybody who waits, unless others come who would suffer from it."""
        if len(self._seen) < 2:
            return self._seen
        places, weights = self.running + free, sum(weight for weight, _ in self._seen.values())
        scarce = free <= reserved_places(places)
        noisy = self._noisy(now_s, places, weights, scarce)
        allowed = self._seen.keys() - noisy if noisy else self._seen.keys()
        if not scarce:
            return allowed
        per_weight = places / weights
        below = {name: per_weight * weight - self._places[name] for name, (weight, _) in self._seen.items()}
        below = {name: missing for name, missing in below.items() if missing > 0}
        return allowed & below.keys() if free <= sum(below.values()) else allowed

    def _noisy(self, now_s: float, places: int, weights: float, scarce: bool) -> set[str]:
        """Who runs more than its part of what runs, and may not add to it now.

        While prompts of anybody wait to be computed, because the next one would delay what others send meanwhile; but
        up to half of its share of all places nobody is noisy. And where places are scarce, when it has what its share
        would be if one more like it came. `weights` are those of all who come.
        """
        for entry, since_s in list(self._prompts.items()):
            if entry.usage.output or (not entry.usage.prompt and now_s - since_s > JOURNAL_GRACE_S):
                del self._prompts[entry]
        computing = len(self._prompts) >= max(1, places // _PLACES_PER_PROMPT)
        noisy = set[str]()
        for name, held in self._places.items():
            weight = self._seen[name][0]
            if held > self.running * weight / weights and (
                (computing and held > places / 2 * weight / weights)
                or (scarce and held >= places * weight / (weights + weight))
            ):
                noisy.add(name)
        return noisy

    def _next_priority(self, now_s: float, allowed: Container[str]) -> Priority | None:
        """The highest priority that waits, unless a lower one has been passed over for too long."""
        waiting = [priority for priority in _PRIORITIES if self._by_priority[priority].waits(allowed)]
        for priority in reversed(waiting):
            if self._passed[priority] >= PASSES and now_s - self._by_priority[priority].oldest_s() >= STARVED_AFTER_S:
                return priority
        return waiting[0] if waiting else None

    def _lengths(self) -> dict[str, tuple[float, int]]:
        """Weight and waiting requests of every caller who waits, of all priorities together."""
        found: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        for queue in self._by_priority:
            for name, weight, length in queue.lengths():
                found[name] = (weight, found[name][1] + length)
        return found

    def _one_less(self) -> None:
        self.waiting -= 1
        if not self.waiting:
            self._served_at_s.clear()  # what a queue drained before it was empty says nothing of the next one
