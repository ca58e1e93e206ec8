"""Who calls, and what that caller may do. Created by identity, read by everything behind it; plain values.

Nothing here comes from a header that a caller can set: a name is the name of a verified key or token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from fnmatch import fnmatchcase


class Priority(IntEnum):
    """Priority: a lower one goes first. The engine knows the same three numbers."""

    INTERACTIVE = 0
    NORMAL = 1
    BATCH = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds for one caller; None is no bound. Tokens are prompt and answer together.

    A budget is `budget_tokens` per calendar period (UTC): "day", "month", or "total" for the life of the key.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    budget_tokens: int | None = None
    budget_period: str = "month"
    max_streams: int | None = None  # requests at once


TEAM_NAME = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9]{0,57}")


@dataclass(frozen=True, slots=True)
class Team:
    """Several callers who share limits, beside each one's own."""

    name: str
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Account:
    """What is counted together: one caller's use, or a team's. `who` is how its caller is addressed."""

    key: str
    who: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Caller:
    """`models` are patterns of `namespace/name` ("team-a/*"); empty is every model. `weight` is a share's size."""

    name: str
    models: tuple[str, ...] = ()
    limits: Limits = Limits()
    weight: float = 1.0
    priority: Priority = Priority.NORMAL  # the best one that this caller may ask for
    debug: bool = False  # may ask which pod answered, and how much of a prompt it should have cached
    team: Team | None = None
    key_digest: bytes = field(default=b"", repr=False, compare=False)  # of the API key that it is known by, SHA-256
    # Its own, and its team's. No caller's name has a colon, but for those of tokens, which begin with `jwt:`.
    accounts: tuple[Account, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        accounts = [Account(self.name, "this key", self.limits)]
        if self.team is not None:
            accounts.append(Account(f"team:{self.team.name}", f"the team {self.team.name}", self.team.limits))
        object.__setattr__(self, "accounts", tuple(accounts))

    @property
    def team_name(self) -> str:
        """Empty where it has no team."""
        return self.team.name if self.team else ""

    def may_call(self, model: str) -> bool:
        """Whether `model`, a key `namespace/name`, is allowed."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


# As keys and tokens carry them: `namespace/name` with `*` and `?`, or `*` alone.

_PATTERN = re.compile(r"\*|[a-z0-9.*?-]+/[a-z0-9.*?-]+")


def parse_patterns(value: object) -> tuple[str, ...]:
    """The patterns in a decoded JSON list; ValueError with the remedy when it is none.

    An empty list is refused: `Caller` takes no patterns for every model, and whoever wrote it meant none.
    """
    if not isinstance(value, list) or not value:
        raise ValueError('must be a list of at least one pattern, such as ["team-a/*"]')
    if not all(isinstance(item, str) and _PATTERN.fullmatch(item) for item in value):
        raise ValueError("must be patterns of namespace/name in lower case, such as team-a/*, or * for every model")
    return tuple(value)
