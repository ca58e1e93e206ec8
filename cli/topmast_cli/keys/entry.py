"""An entry of the Secret of API keys, which the gateway reads; docs/gateway/authentication.md describes it.

A key without terms is `sha256:<hex>` alone, as it always was; with terms it is a JSON object that holds that hash.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

_RANDOM_BYTES = 30  # 240 bits, 40 characters in URL-safe base64
_UNREADABLE = "not readable: the gateway's log says why"


def new_key() -> str:
    """A key that nobody guesses."""
    return "tm-" + secrets.token_urlsafe(_RANDOM_BYTES)


def entry(key: str, terms: Mapping[str, Any]) -> str:
    """What the Secret holds of the key; `terms` by the entry's own field names, without those that say nothing."""
    hashed = "sha256:" + hashlib.sha256(key.encode()).hexdigest()
    return json.dumps({"hash": hashed, **terms}) if terms else hashed


def fields_of(text: str) -> dict[str, Any] | None:
    """The fields of an entry that is a JSON object."""
    if not text.strip().startswith("{"):
        return None
    try:
        fields: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return fields


def described(text: str, now: datetime) -> tuple[str, str, str]:
    """Models, expiry and limits of an entry in words, and never its hash."""
    if not text.strip().startswith("{"):
        return "*", "never", "none"
    try:
        terms = fields_of(text) or {}
        models = " ".join(terms.get("models", ["*"]))
        return models, _expiry(terms.get("expires"), now), limits_in_words(text)
    except (ValueError, TypeError):
        return "?", "?", _UNREADABLE


def limits_in_words(text: str) -> str:
    """The limits of a key's entry or a team's."""
    fields = fields_of(text)
    return _UNREADABLE if fields is None else ", ".join(_limits(fields)) or "none"


def _expiry(text: str | None, now: datetime) -> str:
    if text is None:
        return "never"
    return f"{text} (expired)" if datetime.fromisoformat(text) <= now else text


def _limits(terms: Mapping[str, Any]) -> list[str]:
    words = {
        "requestsPerMinute": "{} requests/min",
        "tokensPerMinute": "{} tokens/min",
        "budgetTokens": "{} tokens/" + str(terms.get("budgetPeriod", "month")),
        "maxStreams": "{} at once",
        "weight": "weight {}",
        "priority": "{}",
        "debug": "sees routes",
    }
    return [phrase.format(terms[field]) for field, phrase in words.items() if field in terms]
