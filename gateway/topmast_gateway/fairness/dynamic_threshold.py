"""How much of a shared room one holder may have: so many times what is free.

Alone it can take most of the room, and never so much that nothing is left for the next one: n holders who take all
they get leave a part of 1 / (n * share + 1). Dynamic thresholds, Choudhury and Hahne, 1998; docs/decisions/0014.
"""

from __future__ import annotations

from enum import Enum


class NoRoom(Enum):
    """Why there is none."""

    FULL = "all of it is taken"
    OWN_SHARE = "this holder has its part"


class DynamicThreshold:
    """`most` units in all, counted by holder."""

    def __init__(self, most: int, share: int) -> None:
        self._most = most
        self._share = share
        self._held: dict[str, int] = {}
        self.taken = 0

    def held(self, holder: str) -> int:
        """What this holder has."""
        return self._held.get(holder, 0)

    def take(self, holder: str, units: int = 1) -> NoRoom | None:
        """Give the holder so many more, or say why not."""
        free = self._most - self.taken
        if units > free:
            return NoRoom.FULL
        held = self._held.get(holder, 0) + units
        if held > self._share * free:
            return NoRoom.OWN_SHARE
        self._held[holder] = held
        self.taken += units
        return None

    def give_back(self, holder: str, units: int = 1) -> None:
        """So many that were taken are free again."""
        if left := self._held.get(holder, 0) - units:
            self._held[holder] = left
        else:
            self._held.pop(holder, None)
        self.taken -= units
