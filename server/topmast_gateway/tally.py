"""What one request has really used, counted while its answer passes by. Fairness and budgets settle by it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Tally:
    """Tokens, each counted once however many pods worked on the answer. `exact` is False while they are estimates:
    an engine that keeps no journal tells them at the end of a stream at best.
    """

    prompt: int = 0
    cached: int = 0  # of the prompt: not computed again
    output: int = 0
    exact: bool = False
