"""The causes that keep a revision from serving, and what status must tell of each: the lines of causes.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from operatorlab.by_hand import CASES, ByHand, OnTheOnlyGpu
from operatorlab.recordings import Recording, recording

TABLE = Path(__file__).parents[1] / "causes.yaml"
THIRD, NEVER = "third", "never"


@dataclass(frozen=True)
class Row:
    """One line; causes.yaml says what its fields mean. `stalled` is in seconds, or THIRD, or NEVER."""

    condition: str
    check: str | None
    case: str
    cause: str
    reason: str
    stalled: int | str
    words: str
    remedy: str

    @property
    def facts(self) -> Recording | ByHand | OnTheOnlyGpu:
        return CASES.get(self.case) or recording(self.case)

    @property
    def long_after_s(self) -> float:
        """When nothing is awaited any more: to the second, where a human is asked for then."""
        return float(self.stalled) if isinstance(self.stalled, int) and self.stalled else 86400.0


ROWS = tuple(
    Row(group["condition"], group["check"], **line)
    for group in yaml.safe_load(TABLE.read_text())
    for line in group["causes"]
)
