"""Counts per caller and period that several gateways add up without asking each other.

Each replica counts only its own part, in numbers that only grow; of another's part the larger value is the later one.
So copies may be exchanged in any order and any number of times, and a gateway that starts again under a new name gets
back from its peers what it had counted. It knows no limits and opens no connections.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from topmast_gateway.limits import periods

Entry = tuple[str, str, str]  # replica, caller, period
Row = tuple[str, str, str, int, int, int]  # an entry, requests, charged, refunded
_LARGEST: Final = 2**63
_LONGEST_NAME: Final = 512
_MOST_FORGOTTEN: Final = 10_000  # at once


@dataclass(slots=True)
class Count:
    """One replica's part. Tokens are `charged - refunded`: even a correction downwards is something that grows."""

    requests: int = 0
    charged: int = 0
    refunded: int = 0
    version: int = 0

    @property
    def tokens(self) -> int:
        """What is charged in the end."""
        return self.charged - self.refunded


class Counters:
    """The parts of all replicas. `replica` is this process's own name, new with every start."""

    def __init__(self, replica: str) -> None:
        self.replica = replica
        self.version = 0
        self._counts: dict[Entry, Count] = {}  # in the order of their last change
        self._replicas: dict[tuple[str, str], dict[str, Count]] = defaultdict(dict)  # the same, by caller and period
        self._of_period: dict[str, dict[Entry, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, caller: str, period: str, *, requests: int = 0, charged: int = 0, refunded: int = 0) -> None:
        """Let this replica's part grow."""
        if requests or charged or refunded:
            count = self._touch((self.replica, caller, period))
            count.requests += requests
            count.charged += charged
            count.refunded += refunded

    def requests(self, caller: str, period: str) -> int:
        """Requests of the caller in the period, at all replicas."""
        return sum(count.requests for count in self._replicas.get((caller, period), {}).values())

    def tokens(self, caller: str, period: str) -> int:
        """Tokens of the caller in the period, at all replicas."""
        return sum(count.tokens for count in self._replicas.get((caller, period), {}).values())

    def changes(self, since: int = 0, most: int | None = None) -> tuple[list[Row], int]:
        """What changed after `since`, a former value of `version`, as rows for `merge`, and up to which version.

        The oldest first, `most` rows at once: whoever asks again with the version it got has them all in the end.
        """
        newest: list[Row] = []
        for entry, count in reversed(self._counts.items()):
            if count.version <= since:
                return newest[::-1], self.version
            if most is not None and len(newest) >= most:
                return self._oldest_changes(since, most)
            newest.append((*entry, count.requests, count.charged, count.refunded))
        return newest[::-1], self.version

    def _oldest_changes(self, since: int, most: int) -> tuple[list[Row], int]:
        rows, reached = list[Row](), since
        for entry, count in self._counts.items():
            if count.version > since:
                if len(rows) >= most:
                    break
                rows.append((*entry, count.requests, count.charged, count.refunded))
                reached = count.version
        return rows, reached

    def merge(self, rows: Sequence[Sequence[Any]], at: float) -> None:
        """Take over what another replica knows. ValueError, and nothing is kept, for rows that are no counts."""
        checked = [_checked(row) for row in rows]
        oldest = periods.oldest_kept(at)
        for entry, (requests, charged, refunded) in checked:
            if not periods.is_kept(entry[2], oldest):
                continue
            known = self._counts.get(entry)
            if known and known.requests >= requests and known.charged >= charged and known.refunded >= refunded:
                continue  # nothing new: it must not travel on as a change
            count = self._touch(entry)
            count.requests = max(count.requests, requests)
            count.charged = max(count.charged, charged)
            count.refunded = max(count.refunded, refunded)

    def forget(self, at: float) -> None:
        """Drop what is older than the previous period of its kind, so that the size is bounded by callers.

        A part of it at a time: called every second, it never takes long.
        """
        oldest, left = periods.oldest_kept(at), _MOST_FORGOTTEN
        for period in [period for period in self._of_period if not periods.is_kept(period, oldest)]:
            entries = self._of_period[period]
            while entries and left:
                entry = entries.popitem()[0]
                self._drop(entry)
                left -= 1
            if not entries:
                del self._of_period[period]

    def _drop(self, entry: Entry) -> None:
        replica, caller, period = entry
        del self._counts[entry]
        of_period = self._replicas[caller, period]
        del of_period[replica]
        if not of_period:
            del self._replicas[caller, period]

    def _touch(self, entry: Entry) -> Count:
        self.version += 1
        replica, caller, period = entry
        if (count := self._counts.pop(entry, None)) is None:
            count = self._replicas[caller, period][replica] = Count()
            self._of_period[period][entry] = None
        count.version = self.version
        self._counts[entry] = count
        return count


def _checked(row: Sequence[Any]) -> tuple[Entry, tuple[int, int, int]]:
    match row:
        case [str(replica), str(caller), str(period), int(requests), int(charged), int(refunded)]:
            names, numbers = (replica, caller, period), (requests, charged, refunded)
            if all(len(text) <= _LONGEST_NAME for text in names) and all(0 <= part < _LARGEST for part in numbers):
                return names, numbers
    raise ValueError(f"not a count: {str(row)[:100]}")
