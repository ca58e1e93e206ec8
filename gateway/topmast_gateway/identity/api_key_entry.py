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

from topmast_gateway.identity.caller import Caller, Limits, Priority, parse_patterns

_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_FIELDS = (
    "hash", "models", "expires", "weight", "priority", "requestsPerMinute", "tokensPerMinute", "budgetTokens",
    "budgetPeriod", "maxStreams", "debug",
)  # fmt: skip
_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
_PERIODS = ("day", "month", "total")
_LARGEST_COUNT = 10**15
_LARGEST_WEIGHT = 1000


class BadKeyEntry(ValueError):
    """Why an entry opens nothing, and what it should be."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its SHA-256, and whose it is. `expires_s` is in Unix seconds."""

    digest: bytes
    caller: Caller
    expires_s: float | None = None


def parse_entry(name: str, text: str) -> ApiKey:
    """The key that the entry `name` describes, or BadKeyEntry."""
    text = text.strip()
    if not text.startswith("{"):
        digest = _digest(text)
        return ApiKey(digest, Caller(name, key_digest=digest))
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise BadKeyEntry("it starts as a JSON object and is none: check its quotes and commas") from None
    return _from_fields(name, fields)


def _from_fields(name: str, fields: Mapping[str, Any]) -> ApiKey:
    if set(fields) - set(_FIELDS):
        raise BadKeyEntry(f"it has a field that is not one of {', '.join(_FIELDS)}: correct or remove it")
    limits = Limits(
        requests_per_minute=_count(fields, "requestsPerMinute"),
        tokens_per_minute=_count(fields, "tokensPerMinute"),
        budget_tokens=_count(fields, "budgetTokens"),
        budget_period=_choice(fields, "budgetPeriod", _PERIODS, "month"),
        max_streams=_count(fields, "maxStreams"),
    )
    priority = _PRIORITIES[_choice(fields, "priority", tuple(_PRIORITIES), "normal")]
    digest = _digest(fields.get("hash"))
    caller = Caller(name, _models(fields), limits, _weight(fields), priority, _flag(fields, "debug"), digest)
    return ApiKey(digest, caller, _expiry(fields))


def _digest(value: object) -> bytes:
    if not isinstance(value, str) or not (match := _HASH.fullmatch(value)):
        raise BadKeyEntry("its hash is not 'sha256:' and 64 lower-case hex digits: `topmast key create` makes one")
    return bytes.fromhex(match[1])


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
