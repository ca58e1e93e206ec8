"""Is the engine stuck? A pure judgement over readings of the progress page; nothing here asks the engine.

Time counts only while the judge itself is watching: when the whole machine was paused, nobody is to blame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from topmast_server.progress import IDLE_TICK_S, Snapshot

WATCH_INTERVAL_S: Final = 0.5
_SLOW_STEPS: Final = 20  # a step may take this many times the slowest recent one
_MISSED_TICKS: Final = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """`stalled_s` without progress, where `limit_s` is allowed."""

    stalled_s: float
    limit_s: float
    reason: str

    @property
    def hung(self) -> bool:
        """Whether the engine must be given up."""
        return self.stalled_s >= self.limit_s


class HangJudge:
    """Two clocks: one since the engine's last sign of life, one since work is due without a finished step."""

    def __init__(self, hang_timeout_s: float) -> None:
        self._hang_timeout_s = hang_timeout_s
        self._seen_at_s: float | None = None
        self._tick_s = -1.0
        self._steps = -1
        self._silent_s = 0.0
        self._stepless_s = 0.0
        self.verdict = Verdict(0.0, hang_timeout_s, "no reading yet")

    def observe(self, now_s: float, page: Snapshot, in_flight: int) -> Verdict:
        """Judge a reading. `in_flight` counts sequences that were handed over and are not finished."""
        passed_s = 0.0 if self._seen_at_s is None else min(now_s - self._seen_at_s, 2 * WATCH_INTERVAL_S)
        self._seen_at_s = now_s
        has_work = page.has_work or in_flight > 0
        self._silent_s = 0.0 if page.last_tick_s != self._tick_s else self._silent_s + passed_s
        moved = page.steps != self._steps
        self._stepless_s = 0.0 if moved or not has_work else self._stepless_s + passed_s
        self._tick_s, self._steps = page.last_tick_s, page.steps
        limit_s = max(self._hang_timeout_s, _SLOW_STEPS * page.slowest_recent_step_s)
        if has_work:
            stalled_s = max(self._silent_s, self._stepless_s)
            self.verdict = Verdict(stalled_s, limit_s, f"no step finished for {stalled_s:.1f} s with work present")
        else:
            limit_s = max(limit_s, _MISSED_TICKS * IDLE_TICK_S)
            reason = f"no sign of life for {self._silent_s:.1f} s"
            self.verdict = Verdict(self._silent_s, limit_s, reason)
        return self.verdict
