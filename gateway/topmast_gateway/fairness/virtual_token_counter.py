"""Fair shares between callers of one priority: the Virtual Token Counter of Sheng et al. (OSDI '24).

Every caller has a counter of the service it got, in tokens divided by its weight, and the caller with the lowest one is
next. Pure: it neither waits nor looks at a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Final

from topmast_gateway.identity.caller import Caller, Priority
from topmast_gateway.messages.token_usage import TokenUsage

W_OUT: Final = 3.0  # what an output token costs, in prompt tokens: about what it takes an engine under load


@dataclass(eq=False, slots=True)
class QueueEntry:
    """One request, from its arrival to its end. `prompt` estimates its uncached tokens until `usage` knows."""

    caller: Caller
    priority: Priority
    prompt: int
    usage: TokenUsage
    arrived_s: float
    charged: float = 0.0

    def cost(self) -> float:
        """Service so far, in prompt tokens."""
        prompt = self.usage.prompt - self.usage.cached if self.usage.prompt else self.prompt
        return prompt + W_OUT * self.usage.output


@dataclass(slots=True)
class CallerAccount:
    """One caller's counter and its waiting requests, oldest first. `served` orders callers by their last service."""

    weight: float
    counter: float
    waiting: deque[QueueEntry] = field(default_factory=deque)
    running: int = 0
    served: int = 0


class VirtualTokenCounter:
    """The waiting and running requests of one priority."""

    def __init__(self) -> None:
        self._accounts: dict[str, CallerAccount] = {}
        self._floor = 0.0  # the counter of whoever was served last: idleness earns nothing below it
        self._served = 0
        self.waiting = 0  # requests

    def waits(self, allowed: Container[str]) -> bool:
        """Whether one of these callers waits."""
        if not self.waiting:
            return False
        return any(account.waiting and name in allowed for name, account in self._accounts.items())

    def arrive(self, entry: QueueEntry) -> None:
        """Stand in line. A caller who had nobody there is lifted to the lowest counter of those who had."""
        name, weight = entry.caller.name, entry.caller.weight
        account = self._accounts.get(name)
        if account is None or not account.waiting:
            lowest = min(counter for _, counter in self.queued()) if self.waiting else self._floor
            if account is None:
                account = self._accounts[name] = CallerAccount(weight, lowest)
            account.counter = max(account.counter, lowest)
        account.weight = weight
        account.waiting.append(entry)
        self.waiting += 1

    def leave(self, entry: QueueEntry) -> None:
        """Go unserved."""
        self._accounts[entry.caller.name].waiting.remove(entry)
        self.waiting -= 1
        self._tidy()

    def pop(self, allowed: Container[str]) -> QueueEntry:
        """Which of these callers is next. Its prompt is charged at once; equal counters alternate."""
        candidates = (one for name, one in self._accounts.items() if one.waiting and name in allowed)
        account = min(candidates, key=lambda one: (one.counter, one.served))
        self._floor = max(self._floor, account.counter)
        self._served += 1
        account.served = self._served
        account.running += 1
        entry = account.waiting.popleft()
        self.waiting -= 1
        self.charge(entry)
        return entry

    def charge(self, entry: QueueEntry) -> None:
        """Bring the counter up to what the request has got so far."""
        account, cost = self._accounts[entry.caller.name], entry.cost()
        account.counter += (cost - entry.charged) / account.weight
        entry.charged = cost

    def finish(self, entry: QueueEntry) -> None:
        """An entry that was popped has ended."""
        self.charge(entry)
        self._accounts[entry.caller.name].running -= 1
        self._tidy()

    def queued(self) -> Iterator[tuple[str, float]]:
        """Callers who wait, with their counters."""
        return ((name, account.counter) for name, account in self._accounts.items() if account.waiting)

    def lengths(self) -> Iterator[tuple[str, float, int]]:
        """Callers who wait: name, weight, and how many of their requests."""
        return ((name, one.weight, len(one.waiting)) for name, one in self._accounts.items() if one.waiting)

    def newest(self, caller: str) -> QueueEntry | None:
        """The caller's last entry that still waits."""
        account = self._accounts.get(caller)
        return account.waiting[-1] if account and account.waiting else None

    def oldest_s(self) -> float:
        """When the one that waits longest arrived."""
        return min(account.waiting[0].arrived_s for account in self._accounts.values() if account.waiting)

    def _tidy(self) -> None:
        """Forget idle callers who owe nothing: without a debt they would start at the floor anyway."""
        idle = [name for name, one in self._accounts.items() if not one.waiting and not one.running]
        if len(idle) == len(self._accounts):
            self._accounts.clear()
            return
        for name in idle:
            if self._accounts[name].counter <= self._floor:
                del self._accounts[name]
