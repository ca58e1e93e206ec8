"""How long the data path waits for what, in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """Every limit is about progress; none is about the total time of an answer."""

    hold: float = 60.0  # for a pod, when there is none
    hold_begun: float = 300.0  # the same for an answer that was begun: giving up would lose it
    silence: float = 5.0  # of an engine that keeps a journal, which shows every second that it lives
    progress: float = 120.0  # for the first byte of any other stream, and between two; and for a client to read
    answer: float = 1200.0  # for any other answer that is not streamed: it shows nothing before it is whole
