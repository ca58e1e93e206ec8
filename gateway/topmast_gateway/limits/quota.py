"""What each caller, and each team of callers, may still use: rates per minute, budgets per period, requests at once.

A request reserves its estimate when it is admitted and settles by what it really used, however it ends. Rates are
sliding windows over two counted minutes, not token buckets: counts of several gateways can be added, buckets cannot.
Pure but for the clock that it is given; replication.py brings in what other gateways have counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from topmast_gateway.identity.caller import Account, Caller, Limits
from topmast_gateway.limits import periods
from topmast_gateway.limits.counters import Counters
from topmast_gateway.limits.rate_limits import (
    Left,
    MinuteWindow,
    check_budget,
    check_rate,
    left_of_budget,
    left_of_rate,
    too_many_at_once,
)
from topmast_gateway.messages.request import Header
from topmast_gateway.messages.token_usage import TokenUsage

_COUNTED = ("day", "month")  # of everybody, for the report of usage


@dataclass(slots=True)
class HeldByRequests:
    """What an account's unfinished requests hold."""

    streams: int = 0
    tokens: int = 0


@dataclass(slots=True, eq=False)
class Reservation:
    """What one open request holds until its block ends: `tokens` by estimate, of which `held` are not charged yet."""

    quota: QuotaEnforcer
    accounts: tuple[Account, ...]
    usage: TokenUsage
    tokens: int
    minute: str  # that its rates were charged in
    headers: tuple[Header, ...]  # that tell the caller what is left
    charged: int = 0
    held: int = field(init=False)

    def __post_init__(self) -> None:
        self.held = self.tokens

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.quota.settle(self)

    @property
    def used(self) -> int:
        """Tokens so far."""
        return self.usage.prompt + self.usage.output


class ArrivingRequest:
    """`with`: one of these accounts' requests at once."""

    __slots__ = ("_accounts", "_arriving")

    def __init__(self, arriving: Counter[str], accounts: tuple[Account, ...]) -> None:
        self._arriving = arriving
        self._accounts = accounts
        for account in accounts:
            arriving[account.key] += 1

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for account in self._accounts:
            self._arriving[account.key] -= 1
            if not self._arriving[account.key]:
                del self._arriving[account.key]


class QuotaEnforcer:
    """`clock` gives Unix seconds. `peers` has what other gateways' unfinished requests hold, by replica."""

    def __init__(self, counters: Counters, clock: Callable[[], float]) -> None:
        self._counters = counters
        self._clock = clock
        self.open: dict[str, HeldByRequests] = {}
        self._arriving: Counter[str] = Counter()  # requests whose bodies are being read, by caller
        self.peers: dict[str, dict[str, HeldByRequests]] = {}

    def arriving(self, caller: Caller) -> ArrivingRequest:
        """Hold one of the caller's requests at once while its body is read; 429 when it would be refused anyway.

        How many tokens it needs is known only then, and `reserved` decides.
        """
        now = self._clock()
        for account in caller.accounts:
            self._check(account, now, arriving=self._arriving.get(account.key, 0))
        return ArrivingRequest(self._arriving, caller.accounts)

    def reserved(self, caller: Caller, tokens: int, usage: TokenUsage) -> Reservation:
        """Hold one request and `tokens` until the block ends, then charge what `usage` says.

        A 429 when a limit would be crossed.
        """
        accounts = caller.accounts
        minute = self._admit(accounts, tokens)
        return Reservation(self, accounts, usage, tokens, minute, self._headers(accounts))

    def charge_open(self, reservation: Reservation) -> int:
        """Count what an open request has used since the last time, as far as that is known; returns how much.

        So what a gateway that is killed had open is charged but for the last moment.
        """
        more = reservation.used - reservation.charged if reservation.usage.exact else 0
        if more <= 0:
            return 0
        released = min(more, reservation.held)
        for account in reservation.accounts:
            self._count(account, more)
            self.open[account.key].tokens -= released
        reservation.held -= released
        reservation.charged += more
        return more

    def used(self, account: Account) -> int:
        """Tokens of the current budget period, without what is reserved."""
        return self._counters.tokens(account.key, periods.name(account.limits.budget_period, self._clock()))

    def held(self, key: str) -> HeldByRequests:
        """What an account's unfinished requests hold at all gateways."""
        parts = [there[key] for there in (self.open, *self.peers.values()) if key in there]
        return HeldByRequests(sum(part.streams for part in parts), sum(part.tokens for part in parts))

    def in_period(self, key: str, kind: str) -> tuple[str, int, int]:
        """The current period of a kind, and an account's requests and tokens in it, at all gateways."""
        period = periods.name(kind, self._clock())
        return period, self._counters.requests(key, period), self._counters.tokens(key, period)

    def left(self, account: Account) -> list[Left]:
        """What is left of each of the account's limits."""
        now, limits = self._clock(), account.limits
        found = []
        if limits.requests_per_minute is not None:
            found.append(left_of_rate("requests", self._requests(account.key, now), limits.requests_per_minute))
        if limits.tokens_per_minute is not None:
            found.append(left_of_rate("tokens", self._tokens(account.key, now), limits.tokens_per_minute))
        if limits.budget_tokens is not None:
            taken = self.used(account) + self.held(account.key).tokens
            found.append(left_of_budget(taken, limits.budget_tokens, limits.budget_period, now))
        return found

    def _admit(self, accounts: tuple[Account, ...], tokens: int) -> str:
        """Check every limit, then reserve; returns the minute that was charged."""
        now = self._clock()
        for account in accounts:
            self._check(account, now, tokens)
        minute = periods.name("minute", now)
        for account in accounts:
            if _has_rates(account.limits):
                self._counters.add(account.key, minute, requests=1, charged=tokens)
            if (own := self.open.get(account.key)) is None:
                own = self.open[account.key] = HeldByRequests()
            own.streams += 1
            own.tokens += tokens
        return minute

    def _check(self, account: Account, now: float, tokens: int | None = None, arriving: int = 0) -> None:
        """A 429 where one more request would cross a limit. `arriving` others count beside what is open.

        `tokens` are what it needs; None is unknown, and then only a budget that is used up stands against it.
        """
        limits, who = account.limits, account.who
        if limits.max_streams is not None and self.held(account.key).streams + arriving >= limits.max_streams:
            raise too_many_at_once(who, limits.max_streams)
        if limits.requests_per_minute is not None:
            window = self._requests(account.key, now)
            window = replace(window, current=window.current + arriving)
            check_rate(who, "requests", window, limits.requests_per_minute, 1)
        if limits.tokens_per_minute is not None and tokens is not None:
            check_rate(who, "tokens", self._tokens(account.key, now), limits.tokens_per_minute, tokens)
        if limits.budget_tokens is not None:
            needed = 1 if tokens is None else tokens
            taken = self.used(account) + self.held(account.key).tokens
            check_budget(who, taken, limits.budget_tokens, needed, limits.budget_period, now)

    def settle(self, reservation: Reservation) -> None:
        """The request has ended: charge what it used."""
        now, used, reserved = self._clock(), reservation.used, reservation.tokens
        for account in reservation.accounts:
            own = self.open[account.key]
            own.streams -= 1
            own.tokens -= reservation.held
            if own.streams == 0:
                del self.open[account.key]
            self._count(account, used - reservation.charged, requests=1)
            if _has_rates(account.limits):
                # What was reserved too much is given back to its own minute, as long as that one counts at all.
                if used < reserved and periods.is_kept(reservation.minute, periods.oldest_kept(now)):
                    self._counters.add(account.key, reservation.minute, refunded=reserved - used)
                self._counters.add(account.key, periods.name("minute", now), charged=max(0, used - reserved))

    def _count(self, account: Account, tokens: int, requests: int = 0) -> None:
        """In the current periods. Tokens below zero take back what was charged too early."""
        now, limits = self._clock(), account.limits
        kinds = {*_COUNTED, limits.budget_period} if limits.budget_tokens is not None else _COUNTED
        for kind in kinds:
            period = periods.name(kind, now)
            self._counters.add(account.key, period, requests=requests, charged=max(0, tokens), refunded=max(0, -tokens))

    def _headers(self, accounts: tuple[Account, ...]) -> tuple[Header, ...]:
        """Of each limit that both have, a caller sees the one of which less is left."""
        tightest: dict[str, Left] = {}
        for account in accounts:
            for left in self.left(account):
                if left.what not in tightest or left.remaining < tightest[left.what].remaining:
                    tightest[left.what] = left
        return tuple(header for left in tightest.values() for header in left.headers()) if tightest else ()

    def _requests(self, key: str, now: float) -> MinuteWindow:
        current, before = periods.name("minute", now), periods.minute_before(now)
        return MinuteWindow(self._counters.requests(key, before), self._counters.requests(key, current), now)

    def _tokens(self, key: str, now: float) -> MinuteWindow:
        current, before = periods.name("minute", now), periods.minute_before(now)
        return MinuteWindow(self._counters.tokens(key, before), self._counters.tokens(key, current), now)


def _has_rates(limits: Limits) -> bool:
    return limits.requests_per_minute is not None or limits.tokens_per_minute is not None
