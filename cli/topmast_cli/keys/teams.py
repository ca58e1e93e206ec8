"""Teams in the Secret of API keys: an entry `team.NAME`, a JSON object of limits without a hash.

Each check here is made on all entries of the version of the Secret that is about to be changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from topmast_cli.failure import Failure
from topmast_cli.keys.entry import fields_of

Entries = Mapping[str, str]

_ENTRY = re.compile(r"team\.[A-Za-z0-9][-._A-Za-z0-9]{0,57}")


def entry_name(team: str) -> str:
    return f"team.{team}"


def team_entry(limits: Mapping[str, Any]) -> str:
    """What the Secret holds of a team; without a limit it only groups keys."""
    return json.dumps(dict(limits))


def is_team(name: str, text: str) -> bool:
    """Whether the gateway takes this entry for a team. One with a hash is a key, whatever its name."""
    fields = fields_of(text)
    return _ENTRY.fullmatch(name) is not None and fields is not None and "hash" not in fields


def entries_of_teams(entries: Entries) -> dict[str, str]:
    """By the teams' names."""
    return {name.removeprefix("team."): text for name, text in entries.items() if is_team(name, text)}


def members(entries: Entries, team: str) -> list[str]:
    """The keys that belong to the team, whether it is there or not."""
    return [name for name, its in _keys_of_teams(entries) if its == team]


def missing(entries: Entries) -> set[str]:
    """Teams that keys belong to and that are not there."""
    return {team for _, team in _keys_of_teams(entries)} - set(entries_of_teams(entries))


def shown_of(text: str, entries: Entries) -> str:
    """The team of a key's entry, for a list."""
    if (team := _team_of(text)) is None:
        return "-"
    return team if team in entries_of_teams(entries) else f"{team} (not there)"


def key_may_come(team: str | None) -> Callable[[Entries], None]:
    """Refuses a key of a team that is not there."""

    def check(entries: Entries) -> None:
        if team is not None and team not in entries_of_teams(entries):
            raise Failure(
                f"there is no team {team!r}, so its keys open nothing: make it with `topmast team set {team}`"
            )

    return check


def key_may_go(name: str) -> Callable[[Entries], None]:
    """Refuses a team that is taken for a key."""

    def check(entries: Entries) -> None:
        if name in entries and is_team(name, entries[name]):
            team = name.removeprefix("team.")
            raise Failure(f"{name!r} is a team and no key: `topmast team remove {team}` removes it")

    return check


def team_may_be_set(team: str) -> Callable[[Entries], None]:
    """Refuses to write over a key that has the name of the team's entry."""
    name = entry_name(team)

    def check(entries: Entries) -> None:
        if name in entries and not is_team(name, entries[name]):
            raise Failure(f"{name!r} is a key: choose another team, or remove it with `topmast key revoke {name}`")

    return check


def team_may_go(team: str, left: list[str], *, force: bool) -> Callable[[Entries], None]:
    """Refuses a team that still has keys, unless `force`; `left` gets their names."""

    def check(entries: Entries) -> None:
        if team not in entries_of_teams(entries):
            raise Failure(f"there is no team {team!r}: `topmast team list` shows those there are")
        left[:] = members(entries, team)
        if left and not force:
            raise Failure(
                f"{', '.join(left)} still {_verb('belong', left)} to the team {team!r}: revoke its keys first, "
                "or use --force, after which they open nothing"
            )

    return check


def removed(team: str, left: list[str]) -> str:
    """What has become of the team and its keys."""
    if not left:
        return f"removed: {team}"
    return (
        f"removed: {team}; {', '.join(left)} still {_verb('belong', left)} to it and {_verb('open', left)} nothing: "
        f"`topmast team set {team}` makes it again"
    )


def _verb(verb: str, subjects: list[str]) -> str:
    return verb + "s" if len(subjects) == 1 else verb


def _keys_of_teams(entries: Entries) -> Iterator[tuple[str, str]]:
    for name, text in entries.items():
        if not is_team(name, text) and (team := _team_of(text)) is not None:
            yield name, team


def _team_of(text: str) -> str | None:
    team = (fields_of(text) or {}).get("team")
    return team if isinstance(team, str) else None
