"""What a pass says about the next one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attention:
    """again_s: seconds until the next look; None for a settled model, which events and the resync alone concern.
    waits: room that comes free anywhere concerns it."""

    again_s: float | None = None
    waits: bool = False
