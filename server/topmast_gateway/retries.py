"""How many requests may be sent a second time: an outage of engines must not be answered by a multiple of the load."""

from __future__ import annotations


class RetryBudget:
    """A fifth of a second try for every request, saved up to `most`: one engine's death is paid for, a storm is not.

    Only tries that may have run count. A refused connection costs nobody anything, and an answer that was begun has a
    limit of its own.
    """

    def __init__(self, share: float = 0.2, most: float = 100.0) -> None:
        self._share = share
        self._most = most
        self._left = most

    def earn(self) -> None:
        """A request has come."""
        self._left = min(self._most, self._left + self._share)

    def spend(self) -> bool:
        """Whether another try may be made; it is paid for."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
