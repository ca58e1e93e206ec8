"""What the Secret holds of a key, and how it is shown."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from topmast_cli.keys.entry import described, entry, new_key
from topmast_gateway.identity.api_key_entry import parse_entry
from topmast_gateway.identity.caller import Caller, Limits, Priority

KEY = "tm-" + "k" * 40
HASH = "sha256:" + hashlib.sha256(KEY.encode()).hexdigest()
TERMS = {
    "models": ["team-a/*", "ns/name"],
    "expires": "2099-01-31T00:00:00Z",
    "weight": 2.0,
    "priority": "interactive",
    "requestsPerMinute": 60,
    "tokensPerMinute": 100_000,
    "budgetTokens": 5_000_000,
    "budgetPeriod": "day",
    "maxStreams": 8,
    "debug": True,
}
NOW = datetime(2027, 1, 1, tzinfo=UTC)


def test_the_gateway_reads_what_is_written() -> None:
    made = parse_entry("x", entry(KEY, TERMS))
    assert made.caller == Caller(
        "x", ("team-a/*", "ns/name"), Limits(60, 100_000, 5_000_000, "day", 8), 2.0, Priority.INTERACTIVE, debug=True
    )
    assert made.expires_s == datetime(2099, 1, 31, tzinfo=UTC).timestamp()
    assert entry(KEY, {}) == HASH and parse_entry("x", HASH).caller == Caller("x")


def test_an_entry_is_described_in_words_and_never_by_its_hash() -> None:
    models, expires, limits = described(entry(KEY, TERMS), NOW)
    assert (models, expires) == ("team-a/* ns/name", "2099-01-31T00:00:00Z")
    rates = "60 requests/min, 100000 tokens/min, 5000000 tokens/day, 8 at once"
    assert limits == f"{rates}, weight 2.0, interactive, sees routes"
    assert described(HASH, NOW) == ("*", "never", "none")
    assert described(entry(KEY, {"expires": "2026-01-01T00:00:00Z"}), NOW)[1] == "2026-01-01T00:00:00Z (expired)"


def test_keys_are_long_and_never_the_same() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000 and {len(key) for key in keys} == {43}


@pytest.mark.parametrize(
    "text", ["", HASH, "{", "{}", '{"models": 3}', '{"expires": "x"}', '{"expires": "2020-01-01"}']
)
def test_any_entry_can_be_listed(text: str) -> None:
    assert all(described(text, datetime.now(UTC)))
