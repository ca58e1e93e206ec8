"""`topmast key`: what the flags become, what goes to which stream, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from topmast_cli.keys import options

TERMS = [
    "--model", "team-a/*", "--model", "ns/name", "--expires", "30d", "--weight", "2", "--priority", "interactive",
    "--requests-per-minute", "60", "--tokens-per-minute", "100000", "--budget-tokens", "5000000",
    "--budget-period", "day", "--max-streams", "8",
]  # fmt: skip


def test_every_flag_becomes_a_field_of_the_entry(topmast: Callable[..., Any], secret: dict[str, str]) -> None:
    assert topmast("key", "create", "limited", *TERMS).code == 0
    made = json.loads(secret["limited"])
    expires = datetime.fromisoformat(made.pop("expires"))
    assert abs((expires - datetime.now(UTC)).total_seconds() - 30 * 86_400) < 60
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", made.pop("hash"))
    assert made == {
        "models": ["team-a/*", "ns/name"],
        "weight": 2.0,
        "priority": "interactive",
        "requestsPerMinute": 60,
        "tokensPerMinute": 100_000,
        "budgetTokens": 5_000_000,
        "budgetPeriod": "day",
        "maxStreams": 8,
    }


def test_a_key_without_limits_is_its_hash_alone(topmast: Callable[..., Any], secret: dict[str, str]) -> None:
    assert topmast("key", "create", "plain").code == 0
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", secret["plain"])


def test_only_the_key_is_on_standard_output(topmast: Callable[..., Any], secret: dict[str, str]) -> None:
    ended = topmast("key", "create", "alice")
    key = ended.output.removesuffix("\n")
    assert re.fullmatch(r"tm-[A-Za-z0-9_-]{40}", key) and key not in ended.errors
    assert "never shown again" in ended.errors


def test_keys_are_listed_in_columns_without_their_hashes(topmast: Callable[..., Any], secret: dict[str, str]) -> None:
    topmast("key", "create", "a-long-name", "--model", "team-a/*", "--expires", "2099-01-31T00:00:00Z")
    topmast("key", "create", "b", "--max-streams", "8")
    shown = topmast("key", "list")
    assert shown == (
        0,
        "NAME         MODELS    EXPIRES               TEAM  LIMITS\n"
        "a-long-name  team-a/*  2099-01-31T00:00:00Z  -     none\n"
        "b            *         never                 -     8 at once\n",
        "",
    )


def test_a_key_is_revoked(topmast: Callable[..., Any], secret: dict[str, str]) -> None:
    topmast("key", "create", "alice")
    assert topmast("key", "revoke", "alice").errors == "revoked: alice; the gateways refuse it within two seconds\n"
    assert secret == {}


def test_flags_say_where_the_secret_is(topmast: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Nothing:
        def entries(self) -> dict[str, str]:
            return {}

    def key_secret(*place: str | None) -> Nothing:
        asked.append(place)
        return Nothing()

    monkeypatch.setattr(options, "key_secret", key_secret)
    topmast("key", "list")
    topmast("key", "list", "-n", "team", "--secret", "keys", "--kubeconfig", "file")
    topmast("key", "list", "--namespace", "team")
    topmast("team", "list", "--namespace", "team")
    assert asked == [
        ("topmast-system", "topmast-api-keys", None),
        ("team", "keys", "file"),
        ("team", "topmast-api-keys", None),
        ("team", "topmast-api-keys", None),
    ]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("a/b",), "'NAME': 'a/b' is no name"),
        (("",), "'NAME': '' is no name"),
        (("x", "--model", "chat"), "'--model': 'chat' is no pattern: write namespace/name"),
        (("x", "--model", "a/b", "--model", "chat"), "'--model': 'chat' is no pattern"),
        (("x", "--expires", "soon"), "'--expires': 'soon' is not 90d, 12h, or a time"),
        (("x", "--expires", "2020-01-01T00:00:00Z"), "'--expires': 2020-01-01T00:00:00Z has passed"),
        (("x", "--expires", "2099-01-01"), "'--expires': '2099-01-01' is not 90d"),
        (("x", "--expires", "0d"), "has passed"),
        (("x", "--weight", "0"), "'--weight': '0' is not a number above 0 and at most 1000"),
        (("x", "--weight", "-1"), "'-1' is not a number above 0"),
        (("x", "--weight", "nan"), "'nan' is not a number above 0"),
        (("x", "--priority", "urgent"), "'--priority': 'urgent' is not one of 'interactive', 'normal', 'batch'"),
        (("x", "--team", "a/b"), "'--team': 'a/b' is no team: use up to 58"),
        (("x", "--max-streams", "0"), "'--max-streams': '0' is not a whole number above 0"),
        (("x", "--budget-tokens", "1e6"), "'--budget-tokens': '1e6' is not a whole number"),
        (("x", "--budget-period", "week"), "'--budget-period': 'week' is not one of 'day', 'month', 'total'"),
        (("x", "y"), "unexpected extra argument"),
        (("x", "--tokens", "1"), "No such option: --tokens"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line_before_anything_happens(
    topmast: Callable[..., Any], secret: dict[str, str], wrong: tuple[str, ...], says: str
) -> None:
    ended = topmast("key", "create", *wrong)
    assert (ended.code, ended.output, secret) == (2, "", {})
    assert ended.errors.count("\n") == 1 and says in ended.errors
