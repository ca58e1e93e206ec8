"""Patterns of models, as keys and tokens carry them: `namespace/name` with `*` and `?`, or `*` alone."""

from __future__ import annotations

import re

_PATTERN = re.compile(r"\*|[a-z0-9.*?-]+/[a-z0-9.*?-]+")


def patterns(value: object) -> tuple[str, ...]:
    """The patterns in a decoded JSON list; ValueError with the remedy when it is none.

    An empty list is refused: `Caller` takes no patterns for every model, and whoever wrote it meant none.
    """
    if not isinstance(value, list) or not value:
        raise ValueError('must be a list of at least one pattern, such as ["team-a/*"]')
    if not all(isinstance(item, str) and _PATTERN.fullmatch(item) for item in value):
        raise ValueError("must be patterns of namespace/name in lower case, such as team-a/*, or * for every model")
    return tuple(value)
