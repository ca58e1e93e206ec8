"""What the flags of `topmast key` and `topmast team` take: each function reads one value, or says how it is written."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from typer import BadParameter

_NAME = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]{0,62}")
_TEAM = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]{0,57}")
_PATTERN = re.compile(r"\*|[a-z0-9.*?-]+/[a-z0-9.*?-]+")
_AGE = re.compile(r"([0-9]{1,5})([hd])")
_COUNT = re.compile(r"0*[1-9][0-9]{0,14}")


def key_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise BadParameter(f"{text!r} is no name: use up to 63 letters, digits, '-', '_' and '.'")
    return text


def team_name(text: str) -> str:
    if not _TEAM.fullmatch(text):
        raise BadParameter(f"{text!r} is no team: use up to 58 letters, digits, '-', '_' and '.'")
    return text


def model_pattern(text: str) -> str:
    if not _PATTERN.fullmatch(text):
        raise BadParameter(f"{text!r} is no pattern: write namespace/name, such as team-a/*, or *")
    return text


def expiry(text: str) -> str:
    """A time in the future, as the entry holds it."""
    now = datetime.now(UTC)
    try:
        if age := _AGE.fullmatch(text):
            when = now + timedelta(**{{"h": "hours", "d": "days"}[age[2]]: int(age[1])})
        else:
            when = datetime.fromisoformat(text)
            if when.tzinfo is None:
                raise ValueError("no zone")
    except (ValueError, OverflowError):
        raise BadParameter(f"{text!r} is not 90d, 12h, or a time like 2027-01-31T00:00:00Z") from None
    if when <= now:
        raise BadParameter(f"{text} has passed")
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def weight(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1000:
        raise BadParameter(f"{text!r} is not a number above 0 and at most 1000")
    return value


def count(text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise BadParameter(f"{text!r} is not a whole number above 0; leave it out for no limit")
    return int(text)
