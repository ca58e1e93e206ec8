"""`topmast team`: teams beside the keys, what may be done to either, and what the gateway makes of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topmast_gateway.identity.api_key_entry import parse_entry
from topmast_gateway.identity.api_keys import ApiKeys, from_secret
from topmast_gateway.identity.caller import Limits, Team

LIMITS = [
    "--requests-per-minute", "60", "--tokens-per-minute", "100000", "--budget-tokens", "5000000",
    "--budget-period", "day", "--max-streams", "8",
]  # fmt: skip
IN_WORDS = "60 requests/min, 100000 tokens/min, 5000000 tokens/day, 8 at once"


def in_the_gateway(entries: Mapping[str, str]) -> ApiKeys:
    return from_secret({name: base64.b64encode(text.encode()).decode() for name, text in entries.items()})


def test_a_team_is_made_replaced_and_removed(topmast: Callable[..., Any], secret: dict[str, str]) -> None:
    assert topmast("team", "set", "core", *LIMITS) == (0, f"core: {IN_WORDS}\n", "")
    assert parse_entry("team.core", secret["team.core"]) == Team("core", Limits(60, 100_000, 5_000_000, "day", 8))
    assert topmast("team", "set", "core", "--max-streams", "3") == (0, "core: 3 at once\n", "")
    assert parse_entry("team.core", secret["team.core"]) == Team("core", Limits(max_streams=3))
    assert topmast("team", "set", "core") == (0, "core: none\n", "")
    assert parse_entry("team.core", secret["team.core"]) == Team("core")
    assert topmast("team", "remove", "core") == (0, "", "removed: core\n") and secret == {}


def test_keys_of_a_team_are_shown_with_it(topmast: Callable[..., Any], secret: dict[str, str]) -> None:
    topmast("team", "set", "core", "--budget-tokens", "9")
    topmast("team", "set", "empty")
    for name in ("alice", "bob"):
        assert topmast("key", "create", name, "--team", "core").code == 0
    topmast("key", "create", "carol")
    assert topmast("team", "list").output == (
        "NAME   LIMITS          KEYS\n"
        "core   9 tokens/month  alice, bob\n"
        "empty  none            none\n"
    )  # fmt: skip
    assert topmast("key", "list").output == (
        "NAME   MODELS  EXPIRES  TEAM  LIMITS\n"
        "alice  *       never    core  none\n"
        "bob    *       never    core  none\n"
        "carol  *       never    -     none\n"
    )
    assert {key.caller.name: key.caller.team for key in in_the_gateway(secret)} == {
        "alice": Team("core", Limits(budget_tokens=9)), "bob": Team("core", Limits(budget_tokens=9)), "carol": None
    }  # fmt: skip


def test_a_key_is_not_made_for_a_team_that_is_not_there(topmast: Callable[..., Any], secret: dict[str, str]) -> None:
    ended = topmast("key", "create", "alice", "--team", "core")
    assert (ended.code, ended.output, secret) == (1, "", {})
    assert ended.errors == (
        "topmast key: there is no team 'core', so its keys open nothing: make it with `topmast team set core`\n"
    )


def test_a_team_with_keys_is_removed_only_by_force(topmast: Callable[..., Any], secret: dict[str, str]) -> None:
    topmast("team", "set", "core")
    topmast("key", "create", "alice", "--team", "core")
    topmast("key", "create", "bob", "--team", "core")
    ended = topmast("team", "remove", "core")
    assert (ended.code, "team.core" in secret) == (1, True)
    assert ended.errors == (
        "topmast team: alice, bob still belong to the team 'core': revoke its keys first, "
        "or use --force, after which they open nothing\n"
    )
    topmast("key", "revoke", "bob")
    ended = topmast("team", "remove", "core", "--force")
    assert ended.errors == (
        "removed: core; alice still belongs to it and opens nothing: `topmast team set core` makes it again\n"
    )
    assert set(secret) == {"alice"} and len(in_the_gateway(secret)) == 0
    assert topmast("team", "list").output.splitlines()[1] == "core  not there: its keys open nothing  alice"
    assert "core (not there)" in topmast("key", "list").output
    topmast("team", "set", "core")
    assert len(in_the_gateway(secret)) == 1


def test_a_key_and_a_team_are_not_taken_for_each_other(topmast: Callable[..., Any], secret: dict[str, str]) -> None:
    topmast("key", "create", "team.core", "--max-streams", "2")  # has a hash, so that it is a key
    for words, says in (
        (("team", "set", "core"), "'team.core' is a key: choose another team, or remove it with `topmast key revoke"),
        (("team", "remove", "core"), "there is no team 'core': `topmast team list` shows those there are"),
    ):
        ended = topmast(*words)
        assert (ended.code, ended.output) == (1, "") and says in ended.errors
    assert "team.core" in topmast("key", "list").output and "core" not in topmast("team", "list").output
    topmast("key", "revoke", "team.core")
    topmast("team", "set", "core")
    ended = topmast("key", "revoke", "team.core")
    assert ended.code == 1 and "is a team and no key: `topmast team remove core` removes it" in ended.errors
    assert set(secret) == {"team.core"} and topmast("key", "list").output.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "[]", "", "sha256:x", "[" * 100_000, '{"a":' * 100_000, '{"team": 3}'])
def test_any_entry_can_be_listed(topmast: Callable[..., Any], secret: dict[str, str], text: str) -> None:
    secret |= {"odd": text, "team.odd": text}
    assert topmast("key", "list").code == topmast("team", "list").code == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ((), "Missing argument 'NAME'"),
        (("a b",), "'NAME': 'a b' is no team: use up to 58"),
        (("x" * 59,), "is no team"),
        (("x", "--max-streams", "0"), "'--max-streams': '0' is not a whole number above 0"),
        (("x", "--budget-period", "day"), "'--budget-period': it needs --budget-tokens"),
        (("x", "--budget-tokens", "1", "--budget-period", "week"), "'week' is not one of 'day', 'month', 'total'"),
        (("x", "--weight", "1"), "No such option: --weight"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line_before_anything_happens(
    topmast: Callable[..., Any], secret: dict[str, str], wrong: tuple[str, ...], says: str
) -> None:
    ended = topmast("team", "set", *wrong)
    assert (ended.code, ended.output, secret) == (2, "", {})
    assert ended.errors.count("\n") == 1 and says in ended.errors


NAMES = st.from_regex(r"[A-Za-z0-9][-._A-Za-z0-9]{0,57}", fullmatch=True)
COUNTS = st.none() | st.integers(1, 10**15 - 1)
FLAGS = ("--requests-per-minute", "--tokens-per-minute", "--max-streams", "--budget-tokens")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NAMES, NAMES, st.tuples(*[COUNTS] * 4), st.sampled_from(["day", "month", "total"]))
def test_the_gateway_takes_every_entry_that_is_written(
    topmast: Callable[..., Any],
    secret: dict[str, str],
    team: str,
    key: str,
    counts: tuple[int | None, ...],
    period: str,
) -> None:
    secret.clear()
    flags = [word for name, count in zip(FLAGS, counts, strict=True) if count for word in (name, str(count))]
    flags += ["--budget-period", period] if counts[3] else []
    assert topmast("team", "set", team, *flags).code == 0
    assert topmast("key", "create", f"k{key}", "--team", team, *flags).code == 0
    found = in_the_gateway(secret)
    requests, tokens, streams, budget = counts
    limits = Limits(requests, tokens, budget, period if budget else "month", streams)
    assert list(found.teams) == [Team(team, limits)]
    (read,) = found
    assert (read.caller.limits, read.caller.team) == (limits, Team(team, limits))
    assert json.loads(secret[f"team.{team}"]).keys() <= json.loads(secret[f"k{key}"]).keys()
