"""Names for spans of time in UTC: minutes, days, months, and all of it.

Every replica gives the same span the same name, so that counts of several gateways can be added. Names of one kind sort
by time. Pure functions of Unix seconds.
"""

from __future__ import annotations

import calendar
import time
from functools import lru_cache
from typing import Final

MINUTE_S: Final = 60
TOTAL: Final = "total"
_DAY_S: Final = 86_400
_FORMATS: Final = {"minute": "%Y-%m-%dT%H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}
_LENGTHS: Final = {16: "minute", 10: "day", 7: "month"}


def name(kind: str, at: float) -> str:
    """The period of a kind ("minute", "day", "month", "total") that `at` lies in."""
    return TOTAL if kind == TOTAL else _named(kind, int(at // MINUTE_S))


@lru_cache(maxsize=64)
def _named(kind: str, minute: int) -> str:
    return time.strftime(_FORMATS[kind], time.gmtime(minute * MINUTE_S))


def minute_before(at: float) -> str:
    """The minute before the one that `at` lies in."""
    return name("minute", at - MINUTE_S)


def seconds_left(kind: str, at: float) -> float | None:
    """Until the period's end; None for one that has none."""
    now = time.gmtime(at)
    if kind == "minute":
        return MINUTE_S - at % MINUTE_S
    if kind == "day":
        return _DAY_S - at % _DAY_S
    if kind == "month":
        following = (now.tm_year + now.tm_mon // 12, now.tm_mon % 12 + 1)
        return calendar.timegm((*following, 1, 0, 0, 0)) - at
    return None


def oldest_kept(at: float) -> dict[int, str]:
    """By a name's length: the period before the current one of that kind. What sorts before it is of no more use."""
    month = time.gmtime(at)
    year, number = (month.tm_year, month.tm_mon - 1) if month.tm_mon > 1 else (month.tm_year - 1, 12)
    return {16: minute_before(at), 10: name("day", at - _DAY_S), 7: f"{year:04d}-{number:02d}"}


def is_kept(period: str, oldest: dict[int, str]) -> bool:
    """Whether a count of this period still matters. One of a replica whose clock is ahead does."""
    return period == TOTAL or (len(period) in _LENGTHS and period >= oldest[len(period)])
