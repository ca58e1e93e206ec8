"""How many rows a step may have so that it takes about a given time: learned from the steps themselves."""

from __future__ import annotations

_SMOOTHING = 0.2  # weight of the newest measurement
_GRAIN = 16  # budgets are multiples of it


class Pace:
    """Rates of this machine with this model, as exponentially weighted averages over busy steps.

    The decode rate is what a replica *can* do, for those who scale it: only steps with at least half of `full_batch`
    rows count. One stream alone makes fewer tokens a second than the machine could, and is no full replica of work.
    """

    def __init__(self, target_s: float, *, least: int, most: int, full_batch: int) -> None:
        self.target_s, self.least, self.most = target_s, least, most
        self.least_batch = (full_batch + 1) // 2
        self.prefill_tokens_per_s = 0.0  # 0: not known yet
        self.decode_tokens_per_s = 0.0
        self._prefill_rows_per_s = 0.0

    def token_budget(self, *, somebody_decodes: bool) -> int:
        """Rows for the next step. With nobody waiting for a next token, larger chunks cost less in all."""
        if self._prefill_rows_per_s == 0.0:
            return max(self.least, _GRAIN * 8)
        rows = int(self._prefill_rows_per_s * self.target_s * (1.0 if somebody_decodes else 4.0))
        return max(self.least, min(self.most, rows // _GRAIN * _GRAIN))

    def learn(self, *, prefill_rows: int, decode_rows: int, seconds: float) -> None:
        """One finished step."""
        if seconds <= 0:
            return
        if prefill_rows == 0 and decode_rows >= self.least_batch:
            self.decode_tokens_per_s = _blend(self.decode_tokens_per_s, decode_rows / seconds)
        elif prefill_rows >= _GRAIN:
            rows_per_s = (prefill_rows + decode_rows) / seconds
            self._prefill_rows_per_s = _blend(self._prefill_rows_per_s, rows_per_s)
            self.prefill_tokens_per_s = _blend(self.prefill_tokens_per_s, prefill_rows / seconds)


def _blend(old: float, new: float) -> float:
    return new if old == 0.0 else old + _SMOOTHING * (new - old)
