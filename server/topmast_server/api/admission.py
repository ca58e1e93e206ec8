"""Who may come in: sequences and queued prompt tokens are reserved at the door and given back in a `finally`.

Reserving before tokenising keeps a burst from slipping through between the check and the count (vllm#58192).
503 means that this pod is full, or would answer too late, and another may not; 400 means that the request fits nowhere.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from topmast_server.api.errors import ApiError, bad_request, deadline_exceeded
from topmast_server.api.ttft_estimate import TtftEstimate

_BYTES_PER_TOKEN: Final = 4  # a guess until the text is tokenised
_DEFAULT_BACKLOG_S: Final = 60.0  # queued prompts beyond this many seconds of prefill are better off elsewhere
_RETRY_AFTER_S: Final = (1, 30)
_PRIORITIES: Final = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine can hold; known once it is ready."""

    max_sequences: int  # running and waiting
    max_num_seqs: int  # running
    max_waiting_tokens: int
    max_context_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    ttft_target_s: float  # a first token that would come later is refused now

    @staticmethod
    def of(
        capacity: dict[str, float],
        max_waiting_requests: int,
        max_waiting_tokens: int | None,
        ttft_target_s: float,
    ) -> Limits:
        """From the engine's measured capacity and the command line."""
        context = int(min(capacity["max_model_len"], capacity["kv_tokens"]))
        rate = max(1.0, capacity["prefill_tokens_per_s"])
        return Limits(
            max_sequences=int(capacity["max_num_seqs"]) + max_waiting_requests,
            max_num_seqs=int(capacity["max_num_seqs"]),
            max_waiting_tokens=max_waiting_tokens or max(2 * context, int(_DEFAULT_BACKLOG_S * rate)),
            max_context_tokens=context,
            prefill_tokens_per_s=rate,
            decode_tokens_per_s=capacity["decode_tokens_per_s"] or rate,  # 0: no full batch was seen yet
            ttft_target_s=ttft_target_s,
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks of the door before it is tokenised."""

    sequences: int
    body_bytes: int = 0
    priority: int = 1  # 0 goes first
    max_tokens: int | None = None
    patience_s: float | None = None  # until its own deadline


class Admission:
    """The counts, owned by the event loop. `clock` gives CLOCK_MONOTONIC seconds."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.clock = clock
        self.ttft_estimate = TtftEstimate(limits.max_num_seqs, limits.prefill_tokens_per_s, limits.decode_tokens_per_s)
        self.sequences = 0  # running and waiting
        self.tickets: set[Ticket] = set()  # of these
        self._waiting_tokens = [0] * _PRIORITIES
        self._waiting_sequences = [0] * _PRIORITIES

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens that were accepted and are not computed yet."""
        return sum(self._waiting_tokens)

    def refuse_when_full(self, sequences: int = 1) -> None:
        """503 when there is no place for anybody, however long they would wait; needs no body to tell."""
        if self.sequences + sequences > self.limits.max_sequences:
            what = f"{self.sequences} sequences are running or waiting, the limit is {self.limits.max_sequences}"
            raise self._full(what, self.wait_s(Wanted(sequences, priority=_PRIORITIES - 1)))

    def enter(self, wanted: Wanted) -> Ticket:
        """Reserve room for a request that is not tokenised yet; 503 when there is none, or its turn comes too late; 400
        when there never is.
        """
        if wanted.sequences > self.limits.max_sequences:
            raise bad_request(
                f"{wanted.sequences} answers are asked for at once, and this server holds {self.limits.max_sequences} "
                "sequences in all: ask for fewer in one request",
                "n",
            )
        self.refuse_when_full(wanted.sequences)
        wait_s = self.wait_s(wanted)
        if wanted.patience_s is not None and wait_s > wanted.patience_s:
            raise deadline_exceeded(f"the first token would come in about {wait_s:.1f} s", _bounded(wait_s))
        if wait_s > self.limits.ttft_target_s:
            target = f"the target is {self.limits.ttft_target_s:g} s"
            raise self._full(f"the first token would come in about {wait_s:.1f} s, {target}", wait_s)
        ticket = Ticket(self, wanted)
        ticket.correct(min(wanted.body_bytes // _BYTES_PER_TOKEN, self.limits.max_context_tokens))
        return ticket

    def wait_s(self, wanted: Wanted) -> float:
        """Seconds until its turn, behind everybody who runs and those who wait with its priority or a better one."""
        ahead = slice(0, wanted.priority + 1)
        running = self.sequences - sum(self._waiting_sequences)
        return self.ttft_estimate.first_token_s(
            running + sum(self._waiting_sequences[ahead]) + wanted.sequences,
            sum(self._waiting_tokens[ahead]),
            (answer for ticket in self.tickets for answer in ticket.answers()),
        )

    def refuse_backlog(self, more_tokens: int) -> None:
        """503 beyond the bound of waiting prompt tokens. An empty queue takes any prompt that fits the context."""
        waiting, limit = self.waiting_tokens, self.limits.max_waiting_tokens
        if more_tokens > 0 and waiting > 0 and waiting + more_tokens > limit:
            wait_s = waiting / self.limits.prefill_tokens_per_s
            raise self._full(f"{waiting} prompt tokens are waiting, the limit is {limit}", wait_s)

    def count(self, priority: int, *, sequences: int = 0, waiting: int = 0, tokens: int = 0) -> None:
        """Change the counts; the estimate sees every change."""
        self.sequences += sequences
        self._waiting_sequences[priority] += waiting
        self._waiting_tokens[priority] += tokens
        self.ttft_estimate.observe(self.waiting_tokens, self.clock())

    def _full(self, what: str, wait_s: float) -> ApiError:
        seconds = _bounded(wait_s)
        message = f"this server is full: {what}; try again in {seconds} s or elsewhere"
        return ApiError(503, message, code="server_full", retry_after_s=seconds)


def _bounded(wait_s: float) -> int:
    low, high = _RETRY_AFTER_S
    return max(low, min(high, math.ceil(wait_s)))


class Ticket:
    """One request's reservation; leaving it in a `with` gives everything back exactly once."""

    def __init__(self, admission: Admission, wanted: Wanted) -> None:
        self._admission = admission
        self._priority = wanted.priority
        self._sequences = self._waiting = wanted.sequences
        self._max_tokens = wanted.max_tokens
        self._tokens = self._made = 0
        self._grew_s = 0.0
        admission.tickets.add(self)
        admission.count(self._priority, sequences=self._sequences, waiting=self._waiting)

    def correct(self, tokens: int) -> None:
        """Replace the guess by the real number of prompt tokens; 503 when that is too many."""
        more = tokens - self._tokens
        try:
            self._admission.refuse_backlog(more)
        except ApiError:
            self.leave()
            raise
        self._admission.count(self._priority, tokens=more)
        self._tokens = tokens

    def prefilled(self) -> None:
        """The first token is out, so the prompt waits no longer."""
        if self._waiting:
            admission = self._admission
            admission.ttft_estimate.prefilled(admission.sequences, self._tokens, admission.clock())
            self._waits_no_longer()

    def made(self, tokens: int) -> None:
        """So many tokens of all its answers are there."""
        if tokens == self._made:
            return
        now_s = self._admission.clock()
        if self._made:
            self._admission.ttft_estimate.went_on(
                self._admission.sequences, (tokens - self._made) / self._sequences, now_s - self._grew_s
            )
        self._made, self._grew_s = tokens, now_s

    def answers(self) -> list[tuple[float, int | None]]:
        """The tokens of each answer so far, and their limit."""
        return [(self._made / self._sequences, self._max_tokens)] * self._sequences

    def leave(self) -> None:
        """Give back what is still held; twice is harmless."""
        if not self._sequences:
            return
        self._admission.tickets.discard(self)
        self._waits_no_longer()
        self._admission.count(self._priority, sequences=-self._sequences)
        self._sequences = 0

    def _waits_no_longer(self) -> None:
        self._admission.count(self._priority, waiting=-self._waiting, tokens=-self._tokens)
        self._waiting = self._tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


def answer_tokens(prompt_tokens: int, asked: int | None, context: int) -> int:
    """How many tokens the answer may have; 400 naming both numbers where prompt and answer cannot fit.

    Never clipped silently: a limit that the caller set is honoured or refused (vllm#33418).
    """
    if prompt_tokens >= context:
        raise never_fits(f"the prompt has {prompt_tokens} tokens", context)
    if asked is None:
        return context - prompt_tokens
    if prompt_tokens + asked > context:
        raise bad_request(
            f"the prompt has {prompt_tokens} tokens and max_tokens is {asked}, together {prompt_tokens + asked}, but "
            f"this model's context is {context} tokens; ask for at most {context - prompt_tokens}",
            "max_tokens",
            "context_length_exceeded",
        )
    return asked


def refuse_endless_text(text: str, longest_token_bytes: int, context: int) -> None:
    """Refuse a prompt that cannot fit however it is tokenised, before seconds are spent on tokenising it."""
    at_least = len(text) // max(1, longest_token_bytes)
    if at_least >= context:
        raise never_fits(f"the prompt has {len(text)} characters, which is at least {at_least} tokens", context)


def never_fits(what: str, context: int) -> ApiError:
    """No pod of this model can take it."""
    return bad_request(
        f"{what}, but this model's context is {context} tokens and the answer needs at least one; shorten the prompt",
        "prompt",
        "context_length_exceeded",
    )
