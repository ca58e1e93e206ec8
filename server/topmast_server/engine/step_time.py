"""How long steps take on this machine with this model, learned from the steps themselves; no clock of its own.

It sizes the chunks of prompts by time, so that whoever waits for a next token waits about as long as was promised on
any hardware.
"""

from __future__ import annotations

from topmast_server.engine.budget import GRAIN, Budget

_SMOOTHING = 0.2  # weight of the newest measurement
_OUTLIER = 2.0  # a measurement counts as at most so many times what was expected: one stall is not a trend
_ALONE = 2.0  # times the goal that a step may take while nobody waits for a next token
_FIRST_ROWS = 256  # a step's size while nothing is known


class Curve:
    """An exponentially weighted average of y per power of two of x; where none is known, the nearest known one."""

    def __init__(self) -> None:
        self._averages: dict[int, float] = {}

    def learn(self, x: int, y: float) -> None:
        """One measurement, y > 0. The other averages go half the way, as it is mostly the whole machine that slows."""
        place = x.bit_length()
        old = self._averages.get(place)
        if old is None:
            self._averages[place] = y
            return
        change = _blend(old, min(y, _OUTLIER * old)) / old
        for other in self._averages:
            self._averages[other] *= change if other == place else (1 + change) / 2

    def at(self, x: int) -> float:
        """The average around x; 0 while nothing is known."""
        place = x.bit_length()
        known = self._averages.get(place)
        if known is None and self._averages:
            known = self._averages[min(self._averages, key=lambda other: (abs(other - place), -other))]
        return known or 0.0


class StepTime:
    """Times of steps by their rows, and the rates that follow.

    The decode rate is what a replica *can* do, for those who scale it: only steps with at least half of `full_batch`
    rows count. One stream alone makes fewer tokens a second than the machine could, and is no full replica of work.
    """

    def __init__(self, goal_s: float, *, most: int, full_batch: int) -> None:
        self.goal_s, self.most = goal_s, most
        self.least_batch = (full_batch + 1) // 2
        self.prefill_tokens_per_s = 0.0  # 0: not known yet
        self.decode_tokens_per_s = 0.0
        self._decode_s = Curve()  # a step's duration by its decode rows
        self._token_s = Curve()  # what a prompt's token costs by its position: attention looks back at all before it

    def budget(self, decode_rows: int) -> Budget:
        """For a step in which so many sequences get their next token. With none, larger chunks cost less in all."""
        rows = self.most - decode_rows
        if self._token_s.at(0) == 0.0:
            return Budget(_FIRST_ROWS)
        if decode_rows == 0:
            return Budget(rows, _ALONE * self.goal_s, self._token_s.at)
        return Budget(rows, self.goal_s - self._decode_s.at(decode_rows), self._token_s.at)

    def learn(self, *, decode_rows: int, prefill_rows: int, position: int, seconds: float) -> None:
        """One finished step; `position`: the prefill rows' mean position in their prompts."""
        if seconds <= 0:
            return
        if prefill_rows == 0 and decode_rows:
            self._decode_s.learn(decode_rows, seconds)
            if decode_rows >= self.least_batch:
                self.decode_tokens_per_s = _blend(self.decode_tokens_per_s, decode_rows / seconds)
        elif prefill_rows >= GRAIN:
            decode_s = self._decode_s.at(decode_rows) if decode_rows else 0.0
            if seconds < decode_s:  # a whole step takes less: the machine has become faster
                self._decode_s.learn(decode_rows, seconds)
            # Beside a prompt decodes cost less than alone, since both read the weights once: a prompt is never free.
            self._token_s.learn(position, max(seconds - decode_s, seconds / 4) / prefill_rows)
            self.prefill_tokens_per_s = _blend(self.prefill_tokens_per_s, prefill_rows / seconds)


def _blend(old: float, new: float) -> float:
    return new if old == 0.0 else old + _SMOOTHING * (new - old)
