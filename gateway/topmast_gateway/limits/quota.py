"""What each caller may still use: rates per minute, budgets per period, requests at once.

A request reserves its estimate when it is admitted and settles by what it really used, however it ends. Rates are
sliding windows over two counted minutes, not token buckets: counts of several gateways can be added, buckets cannot.
Pure but for the clock that it is given; replication.py brings in what other gateways have counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from topmast_gateway.identity.caller import Caller
from topmast_gateway.limits import periods
from topmast_gateway.limits.counters import Counters
from topmast_gateway.limits.rate_limits import (
    MinuteWindow,
    budget_headers,
    check_budget,
    check_rate,
    rate_headers,
    too_many_at_once,
)
from topmast_gateway.messages.request import Header
from topmast_gateway.messages.token_usage import TokenUsage


@dataclass(slots=True)
class OpenRequests:
    """What a caller's unfinished requests hold."""

    streams: int = 0
    tokens: int = 0


class QuotaEnforcer:
    """`clock` gives Unix seconds. `peers` has what other gateways' unfinished requests hold, by replica."""

    def __init__(self, counters: Counters, clock: Callable[[], float]) -> None:
        self._counters = counters
        self._clock = clock
        self.open: dict[str, OpenRequests] = {}
        self._arriving: Counter[str] = Counter()  # requests whose bodies are being read, by caller
        self.peers: dict[str, dict[str, OpenRequests]] = {}

    @contextmanager
    def arriving(self, caller: Caller) -> Iterator[None]:
        """Hold one of the caller's requests at once while its body is read; 429 when it would be refused anyway.

        How many tokens it needs is known only then, and `reserved` decides.
        """
        self._check(caller, self._clock(), arriving=self._arriving[caller.name])
        self._arriving[caller.name] += 1
        try:
            yield
        finally:
            self._arriving[caller.name] -= 1
            if not self._arriving[caller.name]:
                del self._arriving[caller.name]

    @contextmanager
    def reserved(self, caller: Caller, tokens: int, usage: TokenUsage) -> Iterator[tuple[Header, ...]]:
        """Hold one request and `tokens` while the block runs, then charge what `usage` says.

        Gives the headers that tell the caller what is left; a 429 when a limit would be crossed.
        """
        minute = self._admit(caller, tokens)
        try:
            yield self._headers(caller)
        finally:
            self._settle(caller, tokens, usage.prompt + usage.output, minute)

    def used(self, caller: Caller) -> int:
        """Tokens of the current budget period, without what is reserved."""
        return self._counters.tokens(caller.name, periods.name(caller.limits.budget_period, self._clock()))

    def held(self, caller: str) -> OpenRequests:
        """What the caller's unfinished requests hold at all gateways."""
        parts = [there[caller] for there in (self.open, *self.peers.values()) if caller in there]
        return OpenRequests(sum(part.streams for part in parts), sum(part.tokens for part in parts))

    def _admit(self, caller: Caller, tokens: int) -> str:
        """Check every limit, then reserve; returns the minute that was charged."""
        now = self._clock()
        self._check(caller, now, tokens)
        minute = periods.name("minute", now)
        if _has_rates(caller):
            self._counters.add(caller.name, minute, requests=1, charged=tokens)
        own = self.open.setdefault(caller.name, OpenRequests())
        own.streams += 1
        own.tokens += tokens
        return minute

    def _check(self, caller: Caller, now: float, tokens: int | None = None, arriving: int = 0) -> None:
        """A 429 where one more request would cross a limit. `arriving` others count beside what is open.

        `tokens` are what it needs; None is unknown, and then only a budget that is used up stands against it.
        """
        limits, held = caller.limits, self.held(caller.name)
        if limits.max_streams is not None and held.streams + arriving >= limits.max_streams:
            raise too_many_at_once(limits.max_streams)
        if limits.requests_per_minute is not None:
            window = self._requests(caller.name, now)
            window = replace(window, current=window.current + arriving)
            check_rate("requests", window, limits.requests_per_minute, 1)
        if limits.tokens_per_minute is not None and tokens is not None:
            check_rate("tokens", self._tokens(caller.name, now), limits.tokens_per_minute, tokens)
        if limits.budget_tokens is not None:
            needed = 1 if tokens is None else tokens
            taken = self.used(caller) + held.tokens
            check_budget(taken, limits.budget_tokens, needed, limits.budget_period, now)

    def _settle(self, caller: Caller, reserved: int, used: int, minute: str) -> None:
        own = self.open[caller.name]
        own.streams -= 1
        own.tokens -= reserved
        if own.streams == 0:
            del self.open[caller.name]
        now = self._clock()
        if caller.limits.budget_tokens is not None:
            period = periods.name(caller.limits.budget_period, now)
            self._counters.add(caller.name, period, charged=used)
        if _has_rates(caller):
            # What was reserved too much is given back to its own minute, as long as that one counts at all.
            if used < reserved and periods.is_kept(minute, periods.oldest_kept(now)):
                self._counters.add(caller.name, minute, refunded=reserved - used)
            self._counters.add(caller.name, periods.name("minute", now), charged=max(0, used - reserved))

    def _headers(self, caller: Caller) -> tuple[Header, ...]:
        now, limits = self._clock(), caller.limits
        headers: list[Header] = []
        if limits.requests_per_minute is not None:
            window = self._requests(caller.name, now)
            headers += rate_headers("requests", window, limits.requests_per_minute)
        if limits.tokens_per_minute is not None:
            headers += rate_headers("tokens", self._tokens(caller.name, now), limits.tokens_per_minute)
        if limits.budget_tokens is not None:
            taken = self.used(caller) + self.held(caller.name).tokens
            headers += budget_headers(taken, limits.budget_tokens, limits.budget_period, now)
        return tuple(headers)

    def _requests(self, caller: str, now: float) -> MinuteWindow:
        current, before = periods.name("minute", now), periods.minute_before(now)
        return MinuteWindow(self._counters.requests(caller, before), self._counters.requests(caller, current), now)

    def _tokens(self, caller: str, now: float) -> MinuteWindow:
        current, before = periods.name("minute", now), periods.minute_before(now)
        return MinuteWindow(self._counters.tokens(caller, before), self._counters.tokens(caller, current), now)


def _has_rates(caller: Caller) -> bool:
    limits = caller.limits
    return limits.requests_per_minute is not None or limits.tokens_per_minute is not None
