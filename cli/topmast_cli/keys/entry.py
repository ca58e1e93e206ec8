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


def new_key() -> str:
    """A key that nobody guesses."""
    return "tm-" + secrets.token_urlsafe(_RANDOM_BYTES)


def entry(key: str, terms: Mapping[str, Any]) -> str:
    """What the Secret holds of the key; `terms` by the entry's own field names, without those that say nothing."""
    hashed = "sha256:" + hashlib.sha256(key.encode()).hexdigest()
    return json.dumps({"hash": hashed, **terms}) if terms else hashed


def described(text: str, now: datetime) -> tuple[str, str, str]:
    """Models, expiry and limits of an entry in words, and never its hash."""
    if not text.strip().startswith("{"):
        return "*", "never", "none"
    try:
        terms = json.loads(text)
        models = " ".join(terms.get("models", ["*"]))
        return models, _expiry(terms.get("expires"), now), ", ".join(_limits(terms)) or "none"
    except (ValueError, TypeError, AttributeError):
        return "?", "?", "not readable: the gateway's log says why"


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
