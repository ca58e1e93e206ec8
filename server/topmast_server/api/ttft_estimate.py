"""How long a new request would wait for its first token, learned from those before it. Arithmetic over events: the
caller brings the clock, and decides what to do with the answer.

What a server prefills while it decodes is a fraction of what it prefills when idle, and which fraction depends on the
prompts, the answers and the neighbours. So nothing is computed from rates alone: the queue is watched while it drains,
and so are the answers, whose ends make room for those who wait for a place.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from typing import Final

_MEMORY_S: Final = 10.0  # busy seconds after which an observation has lost most of its weight
_PRIOR_S: Final = 0.5  # busy seconds of observation that weigh as much as the guess
_LOADED_SHARE: Final = 0.5  # of the idle rate, until a loaded server was seen
_LONG_ANSWER_TOKENS: Final = 256  # guess for answers whose limit says nothing, until some have ended
_SMOOTHING: Final = 0.05  # weight of the newest answer's length
_TOKEN_TIME_SMOOTHING: Final = 1 / 128  # of a token's time: a few steps of a full batch


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


class TtftEstimate:
    """Prompt tokens drain at one rate while few sequences are there and at another while many are; beyond
    `max_num_seqs` sequences, every further one waits for the end of another, of which the shortest come first.
    """

    def __init__(self, max_num_seqs: int, prefill_tokens_per_s: float, decode_tokens_per_s: float) -> None:
        self._max_num_seqs = max_num_seqs
        self._prefill_tokens_per_s = prefill_tokens_per_s
        self._decode_tokens_per_s = decode_tokens_per_s
        self._light, self._loaded = Rate(), Rate()
        self._queue_since_s: float | None = None  # the last drain, or the queue's beginning
        self._answer_tokens: float | None = None
        self._token_s: dict[bool, float] = {}  # between two tokens of one answer, by whether prompts were waiting

    def believe(self, prefill_tokens_per_s: float, decode_tokens_per_s: float) -> None:
        """The engine's own measurements, as guesses; 0 is not known yet. At its start they were those of a warm-up."""
        self._prefill_tokens_per_s = prefill_tokens_per_s or self._prefill_tokens_per_s
        self._decode_tokens_per_s = decode_tokens_per_s or self._decode_tokens_per_s

    def observe(self, waiting_tokens: int, now_s: float) -> None:
        """What is there from now on; call it after every change."""
        self._queue_since_s = (self._queue_since_s or now_s) if waiting_tokens > 0 else None

    def prefilled(self, sequences: int, tokens: int, now_s: float) -> None:
        """A prompt has its first token. Time counts only here: a long prompt under way is no stall."""
        if self._queue_since_s is not None:
            rate = self._loaded if self._is_loaded(sequences) else self._light
            rate.add(tokens, now_s - self._queue_since_s)
            self._queue_since_s = now_s

    def went_on(self, sequences: int, tokens: float, seconds: float) -> None:
        """An answer grew by so many tokens, more than 0, since it last did."""
        if not self._is_loaded(sequences):
            return
        beside, each_s = self._queue_since_s is not None, seconds / tokens
        known = self._token_s.setdefault(beside, each_s)
        self._token_s[beside] = known + _TOKEN_TIME_SMOOTHING * (each_s - known)

    def answered(self, tokens: int) -> None:
        """An answer of so many tokens came to its end."""
        known = self._answer_tokens
        self._answer_tokens = tokens if known is None else known + _SMOOTHING * (tokens - known)

    def first_token_s(self, sequences: int, waiting_tokens: int, answers: Iterable[tuple[float, int | None]]) -> float:
        """Seconds until a request that comes now has its turn.

        `sequences` are those that run or wait ahead of it, itself included; `waiting_tokens` those of the prompts
        ahead of it; `answers` are all that run or wait: tokens so far, and their limit.
        """
        wait_s = waiting_tokens / self._tokens_per_s(sequences) if waiting_tokens else 0.0
        too_many = sequences - self._max_num_seqs
        if too_many <= 0:
            return wait_s
        left = sorted(max(1.0, self._expected(limit) - made) for made, limit in answers) or [self._expected(None)]
        places, queue = left[: self._max_num_seqs], iter(left[self._max_num_seqs :])
        for _ in range(too_many - 1):  # those ahead take the first places, and give them back later
            heapq.heapreplace(places, places[0] + next(queue, left[-1]))
        return max(wait_s, places[0] * self._token_time_s(beside_prompts=waiting_tokens > 0))

    def _expected(self, limit: int | None) -> float:
        """The length of an answer: as others were; its limit is the only hint while none has ended."""
        usual = _LONG_ANSWER_TOKENS if self._answer_tokens is None else self._answer_tokens
        return usual if limit is None else min(usual, limit)

    def _token_time_s(self, *, beside_prompts: bool) -> float:
        """A token's time in a full batch. Where prompts wait now, others will follow them: the rush goes on."""
        guess_s = self._max_num_seqs / max(1.0, _LOADED_SHARE * self._decode_tokens_per_s)
        return self._token_s.get(beside_prompts, self._token_s.get(not beside_prompts, guess_s))

    def _tokens_per_s(self, sequences: int) -> float:
        light = self._light.per_s(self._prefill_tokens_per_s)
        return max(1.0, self._loaded.per_s(_LOADED_SHARE * light) if self._is_loaded(sequences) else light)

    def _is_loaded(self, sequences: int) -> bool:
        return 2 * sequences >= self._max_num_seqs
