"""One entry of the Secret of API keys: `sha256:<64 hex digits>` alone, or a JSON object with that hash and limits.

Strict on purpose: a mistyped field must not make a key without an expiry or a limit, so such an entry is nobody's key.
A complaint never repeats what the entry holds: somebody may have put the key itself there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from topmast_gateway.identity.caller import TEAM_NAME, Caller, Limits, Priority, Team, parse_patterns

_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_FIELDS = (
    "hash", "models", "expires", "weight", "priority", "requestsPerMinute", "tokensPerMinute", "budgetTokens",
    "budgetPeriod", "maxStreams", "debug", "team",
)  # fmt: skip
_TEAM_FIELDS = ("requestsPerMinute", "tokensPerMinute", "budgetTokens", "budgetPeriod", "maxStreams")
_TEAM_ENTRY = re.compile(rf"team\.({TEAM_NAME.pattern})")
_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_PERIODS = ("day", "month", "total")
_LARGEST_COUNT = 10**15
_LARGEST_WEIGHT = 1000


class BadKeyEntry(ValueError):
    """Why an entry opens nothing, and what it should be."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its SHA-256, and whose it is; its team's limits are not known here. `expires_s` is in Unix seconds."""

    digest: bytes
    caller: Caller
    expires_s: float | None = None


def parse_entry(name: str, text: str) -> ApiKey | Team:
    """The key or the team that the entry `name` describes, or BadKeyEntry.

    A team is an entry `team.<name>` without a hash: a JSON object of limits.
    """
    text = text.strip()
    if not text.startswith("{"):
        digest = _digest(text)
        return ApiKey(digest, Caller(name, key_digest=digest))
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise BadKeyEntry("it starts as a JSON object and is none: check its quotes and commas") from None
    if (team := _TEAM_ENTRY.fullmatch(name)) and "hash" not in fields:
        _check_names(fields, _TEAM_FIELDS)
        return Team(team[1], _limits(fields))
    return _from_fields(name, fields)


def _check_names(fields: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if set(fields) - set(known):
        raise BadKeyEntry(f"it has a field that is not one of {', '.join(known)}: correct or remove it")


def _limits(fields: Mapping[str, Any]) -> Limits:
    return Limits(
        requests_per_minute=_count(fields, "requestsPerMinute"),
        tokens_per_minute=_count(fields, "tokensPerMinute"),
        budget_tokens=_count(fields, "budgetTokens"),
        budget_period=_choice(fields, "budgetPeriod", _PERIODS, "month"),
        max_streams=_count(fields, "maxStreams"),
    )


def _from_fields(name: str, fields: Mapping[str, Any]) -> ApiKey:
    _check_names(fields, _FIELDS)
    priority = _PRIORITIES[_choice(fields, "priority", tuple(_PRIORITIES), "normal")]
    digest = _digest(fields.get("hash"))
    caller = Caller(
        name,
        _models(fields),
        _limits(fields),
        _weight(fields),
        priority,
        _flag(fields, "debug"),
        _team(fields),
        digest,
    )
    return ApiKey(digest, caller, _expiry(fields))


def _digest(value: object) -> bytes:
    if not isinstance(value, str) or not (match := _HASH.fullmatch(value)):
        raise BadKeyEntry("its hash is not 'sha256:' and 64 lower-case hex digits: `topmast key create` makes one")
    return bytes.fromhex(match[1])


def _team(fields: Mapping[str, Any]) -> Team | None:
    if "team" not in fields:
        return None
    if not isinstance(fields["team"], str) or not TEAM_NAME.fullmatch(fields["team"]):
        raise BadKeyEntry("`team` must be the name of a team, which the entry team.<name> describes")
    return Team(fields["team"])


def _models(fields: Mapping[str, Any]) -> tuple[str, ...]:
    if "models" not in fields:
        return ()
    try:
        return parse_patterns(fields["models"])
    except ValueError as error:
        raise BadKeyEntry(f"`models` {error}; leave it out for every model") from None


def _expiry(fields: Mapping[str, Any]) -> float | None:
    if "expires" not in fields:
        return None
    try:
        when = datetime.fromisoformat(fields["expires"])
    except (TypeError, ValueError):
        when = None
    if when is None or when.tzinfo is None:
        raise BadKeyEntry("`expires` must be a time with its zone, such as 2027-01-31T00:00:00Z")
    return when.timestamp()


def _weight(fields: Mapping[str, Any]) -> float:
    value = fields.get("weight", 1)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LARGEST_WEIGHT:
        raise BadKeyEntry(f"`weight` must be a number above 0 and at most {_LARGEST_WEIGHT}")
    return float(value)


def _count(fields: Mapping[str, Any], field: str) -> int | None:
    if field not in fields:
        return None
    value = fields[field]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST_COUNT:
        raise BadKeyEntry(f"`{field}` must be a whole number above 0; leave it out for no limit")
    return value


def _flag(fields: Mapping[str, Any], field: str) -> bool:
    value = fields.get(field, False)
    if not isinstance(value, bool):
        raise BadKeyEntry(f"`{field}` must be true or false")
    return value


def _choice(fields: Mapping[str, Any], field: str, choices: tuple[str, ...], default: str) -> str:
    value = fields.get(field, default)
    if value not in choices:
        raise BadKeyEntry(f"`{field}` must be one of {', '.join(choices)}")
    return str(value)
