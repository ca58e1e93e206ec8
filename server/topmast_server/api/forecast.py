"""How long a new request would wait for its first token, learned from those before it. Arithmetic over events: the
caller brings the clock, and decides what to do with the answer.

What a server prefills while it decodes is a fraction of what it prefills when idle, and which fraction depends on the
prompts, the answers and the neighbours. So nothing is computed from rates alone: the queue is watched while it drains.
"""

from __future__ import annotations

import math
from typing import Final

_MEMORY_S: Final = 10.0  # busy seconds after which an observation has lost most of its weight
_PRIOR_S: Final = 0.5  # busy seconds of observation that weigh as much as the guess
_LOADED_SHARE: Final = 0.5  # of the idle rate, until a loaded server was seen
_LONG_ANSWER_TOKENS: Final = 256  # guess for answers whose limit says nothing, until some have ended
_SMOOTHING: Final = 0.05  # weight of the newest answer's length


class Rate:
    """Units per second, where older observations fade."""

    def __init__(self) -> None:
        self._units = 0.0
        self._seconds = 0.0

    def add(self, units: float, seconds: float) -> None:
        """So many units in so many seconds."""
        kept = math.exp(-seconds / _MEMORY_S)
        self._units = self._units * kept + units
        self._seconds = self._seconds * kept + seconds

    def per_s(self, guess: float) -> float:
        """The rate; `guess` counts as half a second of observation."""
        return (self._units + guess * _PRIOR_S) / (self._seconds + _PRIOR_S)


class Forecast:
    """Prompt tokens drain at one rate while few sequences are there and at another while many are; beyond
    `max_num_seqs` sequences, every further one waits for an end.
    """

    def __init__(self, max_num_seqs: int, prefill_tokens_per_s: float, decode_tokens_per_s: float) -> None:
        self._max_num_seqs = max_num_seqs
        self._prefill_tokens_per_s = prefill_tokens_per_s
        self._decode_tokens_per_s = decode_tokens_per_s
        self._light, self._loaded, self._ends = Rate(), Rate(), Rate()
        self._queue_since_s: float | None = None  # the last drain, or the queue's beginning
        self._full_since_s: float | None = None  # the last end, or when all places were taken
        self._answer_tokens: float | None = None

    def believe(self, prefill_tokens_per_s: float, decode_tokens_per_s: float) -> None:
        """The engine's own measurements, as guesses; 0 is not known yet. At its start they were those of a warm-up."""
        self._prefill_tokens_per_s = prefill_tokens_per_s or self._prefill_tokens_per_s
        self._decode_tokens_per_s = decode_tokens_per_s or self._decode_tokens_per_s

    def observe(self, sequences: int, waiting_tokens: int, now_s: float) -> None:
        """What is there from now on; call it after every change."""
        self._queue_since_s = (self._queue_since_s or now_s) if waiting_tokens > 0 else None
        self._full_since_s = (self._full_since_s or now_s) if sequences >= self._max_num_seqs else None

    def prefilled(self, sequences: int, tokens: int, now_s: float) -> None:
        """A prompt has its first token. Time counts only here: a long prompt under way is no stall."""
        if self._queue_since_s is not None:
            rate = self._loaded if self._is_loaded(sequences) else self._light
            rate.add(tokens, now_s - self._queue_since_s)
            self._queue_since_s = now_s

    def ended(self, sequences: int, now_s: float) -> None:
        """Sequences made room for others, whatever ended them."""
        if self._full_since_s is not None:
            self._ends.add(sequences, now_s - self._full_since_s)
            self._full_since_s = now_s

    def answered(self, tokens: int) -> None:
        """An answer of so many tokens came to its end."""
        known = self._answer_tokens
        self._answer_tokens = tokens if known is None else known + _SMOOTHING * (tokens - known)

    def first_token_s(self, sequences: int, waiting_tokens: int, max_tokens: int | None) -> float:
        """Seconds until a request that comes now has its turn.

        `sequences` are those that run or wait ahead of it, itself included; `waiting_tokens` those of the prompts
        ahead of it; `max_tokens` is its own answer's limit, the only hint at how long answers are while none has ended.
        """
        if waiting_tokens == 0 and sequences <= self._max_num_seqs:
            return 0.0
        too_many = max(0, sequences - self._max_num_seqs)
        answer = self._answer_tokens or min(max_tokens or _LONG_ANSWER_TOKENS, _LONG_ANSWER_TOKENS)
        ends_per_s = self._ends.per_s(_LOADED_SHARE * self._decode_tokens_per_s / max(1.0, answer))
        return max(waiting_tokens / self._tokens_per_s(sequences), too_many / max(ends_per_s, 1e-6))

    def _tokens_per_s(self, sequences: int) -> float:
        light = self._light.per_s(self._prefill_tokens_per_s)
        return max(1.0, self._loaded.per_s(_LOADED_SHARE * light) if self._is_loaded(sequences) else light)

    def _is_loaded(self, sequences: int) -> bool:
        return 2 * sequences >= self._max_num_seqs
