"""Who may come in: sequences and queued prompt tokens are reserved at the door and given back in a `finally`.

Reserving before tokenising keeps a burst from slipping through between the check and the count (vllm#58192).
503 means that this pod is full and another may not be; 400 means that the request fits nowhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from topmast_server.api.errors import ApiError, bad_request

_BYTES_PER_TOKEN: Final = 4  # a guess until the text is tokenised
_DEFAULT_BACKLOG_S: Final = 60.0  # queued prompts beyond this many seconds of prefill are better off elsewhere
_RETRY_AFTER_S: Final = (1, 30)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the engine can hold; known once it is ready."""

    max_sequences: int  # running and waiting
    max_waiting_tokens: int
    max_context_tokens: int
    prefill_tokens_per_s: float

    @staticmethod
    def of(capacity: dict[str, float], max_waiting_requests: int, max_waiting_tokens: int | None) -> Limits:
        """From the engine's measured capacity and the command line."""
        context = int(min(capacity["max_model_len"], capacity["kv_tokens"]))
        rate = max(1.0, capacity["prefill_tokens_per_s"])
        return Limits(
            int(capacity["max_num_seqs"]) + max_waiting_requests,
            max_waiting_tokens or max(2 * context, int(_DEFAULT_BACKLOG_S * rate)),
            context,
            rate,
        )


class Admission:
    """The counts, owned by the event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.sequences = 0
        self.waiting_tokens = 0

    def enter(self, sequences: int, body_bytes: int) -> Ticket:
        """Reserve room for a request that is not tokenised yet; 503 when there is none."""
        if self.sequences + sequences > self.limits.max_sequences:
            raise self._full(
                f"{self.sequences} sequences are running or waiting, the limit is {self.limits.max_sequences}"
            )
        ticket = Ticket(self, sequences)
        ticket.correct(min(body_bytes // _BYTES_PER_TOKEN, self.limits.max_context_tokens))
        return ticket

    def make_room(self, more_tokens: int) -> None:
        """Count prompt tokens as waiting. An empty queue takes any prompt that fits the context."""
        after = self.waiting_tokens + more_tokens
        if more_tokens > 0 and self.waiting_tokens > 0 and after > self.limits.max_waiting_tokens:
            raise self._full(
                f"{self.waiting_tokens} prompt tokens are waiting, the limit is {self.limits.max_waiting_tokens}"
            )
        self.waiting_tokens = after

    def _full(self, what: str) -> ApiError:
        low, high = _RETRY_AFTER_S
        seconds = math.ceil(self.waiting_tokens / self.limits.prefill_tokens_per_s)
        wait_s = max(low, min(high, seconds))
        return ApiError(
            503,
            f"this server is full: {what}; try again in {wait_s} s or elsewhere",
            code="server_full",
            retry_after_s=wait_s,
        )


class Ticket:
    """One request's reservation; leaving it in a `with` gives everything back exactly once."""

    def __init__(self, admission: Admission, sequences: int) -> None:
        self._admission = admission
        self._sequences = sequences
        self._tokens = 0
        admission.sequences += sequences

    def correct(self, tokens: int) -> None:
        """Replace the guess by the real number of prompt tokens; 503 when that is too many."""
        try:
            self._admission.make_room(tokens - self._tokens)
        except ApiError:
            self.leave()
            raise
        self._tokens = tokens

    def prefilled(self) -> None:
        """The first token is out, so the prompt waits no longer."""
        self._admission.waiting_tokens -= self._tokens
        self._tokens = 0

    def leave(self) -> None:
        """Give back what is still held; twice is harmless."""
        self.prefilled()
        self._admission.sequences -= self._sequences
        self._sequences = 0

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
