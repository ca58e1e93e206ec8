"""Indices by hand, as kopf fills them, for the tests of what is read from them."""

from __future__ import annotations

from typing import Any

from topmast_operator.watch.mirror import INDEX_NAMES, Indices


class Index(dict[Any, list[Any]]):
    """As much of a kopf.Index as is used."""

    def put(self, key: Any, record: Any) -> None:
        self[key] = [item for item in self.get(key, []) if item.uid != record.uid] + [record]


def indices() -> Indices:
    return Indices(**{name: Index() for name in INDEX_NAMES})
