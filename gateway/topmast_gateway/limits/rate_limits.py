"""Rate limits and budgets as arithmetic: when a 429 is due, when to come back, the headers that clients read.

Pure functions over numbers. A sliding window counts the current minute in full and the one before by the part of it
that lies within the last 60 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from topmast_gateway.limits import periods
from topmast_gateway.limits.periods import MINUTE_S
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.request import Header

_NO_RETRY: Header = (b"x-should-retry", b"false")  # OpenAI's clients retry a 429 by themselves unless asked not to


@dataclass(frozen=True, slots=True)
class MinuteWindow:
    """The last 60 s at `now` (Unix seconds), from the counts of two minutes."""

    before: int
    current: int
    now: float

    @property
    def used(self) -> float:
        """What counts at this moment."""
        return self.current + self.before * (1 - self._passed_s / MINUTE_S)

    def wait_s(self, limit: int, wanted: int) -> float:
        """Seconds until `wanted` more fits, when nothing else comes; `wanted` is at most the limit."""
        room = limit - wanted
        left_s = MINUTE_S - self._passed_s
        if self.current <= room:
            return max(0.0, left_s - MINUTE_S * (room - self.current) / self.before) if self.before else 0.0
        return left_s + MINUTE_S * (1 - room / self.current)

    @property
    def empty_in_s(self) -> float:
        """Seconds until nothing counts any more."""
        left_s = MINUTE_S - self._passed_s
        return left_s + MINUTE_S if self.current > 0 else left_s if self.before > 0 else 0.0

    @property
    def _passed_s(self) -> float:
        return self.now % MINUTE_S


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a limit, and in how many seconds all of it will be back; None is never."""

    what: str  # requests, tokens or budget
    limit: int
    remaining: int
    reset_s: float | None

    def headers(self) -> tuple[Header, ...]:
        """As OpenAI writes them."""
        values = {"limit": str(self.limit), "remaining": str(self.remaining)}
        if self.reset_s is not None:
            values["reset"] = _span(self.reset_s)
        return tuple((f"x-ratelimit-{name}-{self.what}".encode(), value.encode()) for name, value in values.items())


def check_rate(who: str, what: str, window: MinuteWindow, limit: int, wanted: int) -> None:
    """429 when `wanted` more `what` ("requests", "tokens") would cross the limit per minute of `who` ("this key")."""
    headers = left_of_rate(what, window, limit).headers()
    if wanted > limit:
        message = (
            f"this request needs about {wanted} {what}, and {who} may use {limit} a minute: "
            "shorten the prompt or lower max_completion_tokens"
        )
        raise _refusal("rate_limit_exceeded", what, message, (*headers, _NO_RETRY))
    if window.used + wanted > limit:
        wait_s = max(1, math.ceil(window.wait_s(limit, wanted)))
        message = (
            f"{who} may use {limit} {what} a minute and has used {math.ceil(window.used)}; "
            f"this request needs about {wanted}: try again in {wait_s} s"
        )
        raise _refusal("rate_limit_exceeded", what, message, (*headers, (b"retry-after", b"%d" % wait_s)))


def check_budget(who: str, taken: int, budget: int, wanted: int, period: str, now: float) -> None:
    """429 when `wanted` more tokens would cross the budget of the period."""
    if taken + wanted <= budget:
        return
    left_s = periods.seconds_left(period, now)
    span = "in total" if left_s is None else f"a {period}"
    remedy = "ask your administrator for more" if left_s is None else f"it is renewed in {_span(left_s)}"
    message = (
        f"{who} has a budget of {budget} tokens {span}, of which {max(0, budget - taken)} are left, and this "
        f"request needs about {wanted}: {remedy}, or lower max_completion_tokens"
    )
    back = () if left_s is None else ((b"retry-after", b"%d" % math.ceil(left_s)),)
    headers = (*left_of_budget(taken, budget, period, now).headers(), *back, _NO_RETRY)
    raise _refusal("insufficient_quota", "insufficient_quota", message, headers)


def too_many_at_once(who: str, limit: int) -> ApiError:
    """429 for a caller whose requests take all the places that it may have."""
    message = f"{who} may have {limit} requests open at once and has them: wait for one to end"
    return _refusal("rate_limit_exceeded", "requests", message, ((b"retry-after", b"1"),))


def left_of_rate(what: str, window: MinuteWindow, limit: int) -> Left:
    """Of a rate per minute."""
    return Left(what, limit, max(0, limit - math.ceil(window.used)), window.empty_in_s)


def left_of_budget(taken: int, budget: int, period: str, now: float) -> Left:
    """Of a budget; one without an end has no reset."""
    return Left("budget", budget, max(0, budget - taken), periods.seconds_left(period, now))


def _refusal(code: str, kind: str, message: str, headers: tuple[Header, ...]) -> ApiError:
    return ApiError(429, code, message, kind=kind, headers=headers)


def _span(seconds: float) -> str:
    """As OpenAI writes durations: 7s, 6m0s, 1h0m7s."""
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if whole >= 60 else "") + f"{whole % 60}s"
