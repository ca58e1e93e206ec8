"""Entries of the Secret of API keys: both forms open for ever, and a wrong one opens nothing and is named."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.stage import KEY, hashed
from topmast_gateway.identity import api_keys
from topmast_gateway.identity.api_key_entry import BadKeyEntry, parse_entry
from topmast_gateway.identity.api_keys import from_secret
from topmast_gateway.identity.caller import Caller, Limits, Priority, Team


def secret(**entries: str) -> dict[str, str]:
    return {name: base64.b64encode(text.encode()).decode() for name, text in entries.items()}


def entry(**fields: Any) -> str:
    return json.dumps({"hash": hashed(KEY), **fields})


def test_an_entry_may_carry_everything_that_limits_a_caller() -> None:
    key = parse_entry(
        "alice",
        entry(
            models=["ns/name", "team-a/*"],
            expires="2027-01-31T00:00:00Z",
            weight=2,
            priority="interactive",
            requestsPerMinute=60,
            tokensPerMinute=100_000,
            budgetTokens=5_000_000,
            budgetPeriod="day",
            maxStreams=8,
        ),
    )
    limits = Limits(60, 100_000, 5_000_000, "day", 8)
    assert key.caller == Caller("alice", ("ns/name", "team-a/*"), limits, 2.0, Priority.INTERACTIVE)
    assert key.expires_s == 1_801_353_600


@pytest.mark.parametrize("text", [hashed(KEY), hashed(KEY) + "\n", entry(), f" {entry()}\n"])
def test_a_hash_alone_and_an_object_with_only_a_hash_mean_a_caller_without_limits(text: str) -> None:
    key = parse_entry("bob", text)
    assert key.caller == Caller("bob") and key.expires_s is None
    assert api_keys.from_secret(secret(bob=text)).find(KEY.encode()) == key


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (entry(model=["team-a/*"]), "one of hash, models"),
        (entry(Expires="2027-01-31T00:00:00Z"), "one of hash, models"),
        (entry(models=[]), "at least one pattern"),
        (entry(models="team-a/*"), "at least one pattern"),
        (entry(models=["chat"]), "namespace/name"),
        (entry(models=["Team-A/*"]), "namespace/name"),
        (entry(models=[["a/b"]]), "namespace/name"),
        (entry(expires="2027-01-31"), "with its zone"),
        (entry(expires="soon"), "with its zone"),
        (entry(expires=1_801_353_600), "with its zone"),
        (entry(expires=None), "with its zone"),
        (entry(weight=0), "above 0"),
        (entry(weight=-1), "above 0"),
        (entry(weight=True), "above 0"),
        ('{"hash": "' + hashed(KEY) + '", "weight": NaN}', "above 0"),
        (entry(priority="urgent"), "interactive, normal, batch"),
        (entry(priority=["batch"]), "interactive, normal, batch"),
        (entry(requestsPerMinute=0), "leave it out for no limit"),
        (entry(tokensPerMinute="100"), "leave it out for no limit"),
        (entry(budgetTokens=1.5), "leave it out for no limit"),
        (entry(maxStreams=True), "leave it out for no limit"),
        (entry(budgetPeriod="week"), "day, month, total"),
        (json.dumps({"hash": KEY}), "64 lower-case hex digits"),
        (json.dumps({"models": ["a/b"]}), "64 lower-case hex digits"),
        ('{"hash": ', "quotes and commas"),
        ("{" * 100_000, "quotes and commas"),
        (KEY, "64 lower-case hex digits"),
        ("", "64 lower-case hex digits"),
    ],
)
def test_a_wrong_entry_opens_nothing_and_is_named_with_its_remedy(
    caplog: pytest.LogCaptureFixture, wrong: str, remedy: str
) -> None:
    with caplog.at_level(logging.WARNING):
        known = api_keys.from_secret(secret(broken=wrong, good=hashed("tm-other")))
    assert known.find(KEY.encode()) is None and len(known) == 1
    (line,) = caplog.messages
    assert "'broken'" in line and remedy in line
    assert KEY not in line and hashed(KEY)[7:] not in line


def test_a_team_is_an_entry_without_a_hash_and_its_keys_share_its_limits() -> None:
    teams = {"team.research": '{"budgetTokens": 5, "budgetPeriod": "day"}', "team.empty": "{}"}
    keys = from_secret(secret(alice=entry(team="research"), bob=hashed("tm-b"), **teams))
    assert len(keys) == 2 and sorted(team.name for team in keys.teams) == ["empty", "research"]
    alice, bob = keys.find(KEY.encode()), keys.find(b"tm-b")
    assert alice and bob and bob.caller.team is None
    assert alice.caller.team == Team("research", Limits(budget_tokens=5, budget_period="day"))
    assert [account.key for account in alice.caller.accounts] == ["alice", "team:research"]


def test_a_key_named_like_a_team_stays_a_key() -> None:
    keys = from_secret(secret(**{"team.research": entry(), "team.other": hashed("tm-b")}))
    assert len(keys) == 2 and not list(keys.teams)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"alice": entry(team="reserch")}, "no entry team.reserch"),
        ({"alice": entry(team="")}, "`team` must be the name"),
        ({"alice": entry(team=["research"])}, "`team` must be the name"),
        ({"alice": entry(team="research"), "team.research": '{"budgetToken": 5}'}, "no entry team.research"),
        ({"team.research": '{"budgetToken": 5}'}, "a field that is not one of requestsPerMinute"),
        ({"team.research": '{"maxStreams": 0}'}, "`maxStreams` must be"),
        ({"team.research": '{"models": ["a/b"]}'}, "a field that is not one of"),
        ({"research": '{"budgetTokens": 5}'}, "its hash is not"),
    ],
)
def test_a_mistyped_team_makes_no_key_without_its_limits(
    entries: dict[str, str], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = from_secret(secret(**entries))
    assert len(keys) == 0 and not list(keys.teams) and says in caplog.text


def test_two_entries_for_one_key_do_not_add_up(caplog: pytest.LogCaptureFixture) -> None:
    known = api_keys.from_secret(secret(b=hashed(KEY), a=entry(maxStreams=1)))
    found = known.find(KEY.encode())
    assert found is not None and found.caller == Caller("a", limits=Limits(max_streams=1))
    assert "'b'" in caplog.text and "'a'" in caplog.text


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_no_text_is_more_than_a_bad_entry(text: str) -> None:
    for candidate in (text, "{" + text, f'{{"hash": "{hashed(KEY)}", "models": {text}, "expires": {text}}}'):
        try:
            parse_entry("any", candidate)
        except BadKeyEntry:
            continue


@given(st.binary(max_size=300))
def test_finding_a_key_takes_one_lookup_whatever_is_presented(presented: bytes) -> None:
    looked_up: list[object] = []

    class Watched(dict[bytes, Any]):
        def get(self, key: bytes, default: Any = None) -> Any:
            looked_up.append(key)
            return super().get(key, default)

    known = api_keys.from_secret(secret(**{f"k{number}": hashed(f"tm-{number}") for number in range(20)}))
    known._by_digest = Watched(known._by_digest)
    for key in (presented, b"tm-1", b"tm-", presented[:10]):
        looked_up.clear()
        known.find(key)
        # A digest of fixed size, never the key or a prefix of it.
        assert len(looked_up) == (1 if 0 < len(key) <= 256 else 0) and all(len(d) == 32 for d in looked_up)  # type: ignore[arg-type]
