"""Whose fault is it? A step that raises is computed again by halves, so that one request's fault ends one request.

A step's KV writes are idempotent: computing rows again, in smaller batches, gives what the one batch would have given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from topmast_server.engine.plan import Work
from topmast_server.engine.runner import Outcome
from topmast_server.engine.sequence import Sequence

_log = logging.getLogger(__name__)
_HOPELESS = 2  # so many different sequences failing alone, and nobody succeeding, mean that the model is broken


class EngineBroken(RuntimeError):
    """The model fails whatever it is given; only a fresh process can help."""


@dataclass(slots=True)
class Computed:
    """What became of a step: the new token of each sampled sequence (-1: not a number), or its error."""

    tokens: dict[Sequence, int] = field(default_factory=dict)
    errors: dict[Sequence, str] = field(default_factory=dict)
    forward_s: float = 0.0
    sample_s: float = 0.0

    def add(self, work: list[Work], outcome: Outcome) -> None:
        """A part of the step went well."""
        sampled = [piece.sequence for piece in work if piece.sample]
        self.tokens.update(zip(sampled, outcome.tokens, strict=True))
        self.forward_s += outcome.forward_s
        self.sample_s += outcome.sample_s


class Isolation:
    """Computes steps; remembers who failed alone since anything last succeeded."""

    def __init__(self, run: Callable[[list[Work]], Outcome]) -> None:
        self._run = run
        self._suspects: set[str] = set()

    def compute(self, work: list[Work]) -> Computed:
        """One step. Raises EngineBroken when two different sequences in a row fail alone and nothing else works."""
        computed = Computed()
        last = self._compute(work, computed)
        if last is not None and len(self._suspects) >= _HOPELESS:
            raise EngineBroken(f"The model fails for every request, the last time with: {_describe(last)}") from last
        return computed

    def _compute(self, work: list[Work], computed: Computed) -> Exception | None:
        """Fill `computed` for this part of a step; the last error of a sequence that failed alone."""
        try:
            outcome = self._run(work)
        except Exception as raised:
            error = raised
        else:
            self._suspects.clear()
            computed.add(work, outcome)
            return None
        halves = _halves(work)
        if halves:
            _log.warning("A step of %d sequences failed and is tried by halves: %s", len(work), _describe(error))
            return self._compute_halves(halves, computed)
        sequence = work[0].sequence
        _log.error("Request %s ends: the model failed on it alone", sequence.request_id, exc_info=error)
        self._suspects.add(sequence.request_id)
        computed.errors[sequence] = (
            f"The model failed on this request ({_describe(error)}); other requests are not affected. "
            "Send it again, shorter if memory was the reason."
        )
        return error

    def _compute_halves(self, halves: list[list[Work]], computed: Computed) -> Exception | None:
        last = None
        for half in halves:
            if half[0].sequence not in computed.errors:  # the first half of its own chunk has just failed
                last = self._compute(half, computed) or last
        return last


def _halves(work: list[Work]) -> list[list[Work]]:
    """Half the sequences each, or half of one sequence's chunk each (memory may be short); one row is not divided."""
    if len(work) > 1:
        middle = len(work) // 2
        return [work[:middle], work[middle:]]
    piece = work[0]
    if piece.count > 1:
        first = piece.count // 2
        head = Work(piece.sequence, piece.start, first, sample=False)
        return [[head], [Work(piece.sequence, piece.start + first, piece.count - first, piece.sample)]]
    return []


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
