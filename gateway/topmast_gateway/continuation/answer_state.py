"""One request on its way: what was asked, how far its answer is, and how long it may still take.

Shared by the tries that work on it, one after another. It decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from topmast_gateway.continuation.journal import JOURNAL_HEADER, Journal
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.headers import TIMEOUT, seconds_of, towards_engine
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.messages.token_usage import TokenUsage


class AnswerState:
    """`model` is the key of the model that was asked for; `journal` is None where the answer cannot have one.

    `mended` is told the seconds from a break of the answer to its first new token.
    """

    def __init__(
        self,
        ask: CompletionRequest,
        model: str,
        headers: Mapping[bytes, bytes],
        reply: ResponseWriter,
        tally: TokenUsage,
        mended: Callable[[float], None],
    ) -> None:
        self.ask, self.model, self.reply, self.tally = ask, model, reply, tally
        self.journal = None if ask.no_journal else Journal(tally, whole=not ask.stream)
        self._headers = towards_engine(headers, reply.request_id)
        if self.journal is not None:
            self._headers[JOURNAL_HEADER] = "1"
        timeouts = [each for each in (ask.timeout_s, seconds_of(self._headers)) if each is not None]
        self._deadline = time.monotonic() + min(timeouts) if timeouts else None
        self._mended = mended
        self._broke_at: float | None = None
        self._made_then = 0

    @property
    def made(self) -> int:
        """Tokens that need not be made again."""
        return 0 if self.journal is None else len(self.journal.token_ids)

    @property
    def begun(self) -> bool:
        """Whether giving up now would lose something."""
        return self.made > 0 or self.reply.answered_at is not None

    def time_left_s(self) -> float | None:
        """Until its own deadline; None where it has none."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def headers(self) -> dict[str, str]:
        """For the next try: a timeout counts from the request's arrival here. An ApiError when it has passed."""
        left_s = self.time_left_s()
        if left_s is None:
            return self._headers
        if left_s <= 0:
            message = "the timeout passed before the answer was complete: allow more time or ask for fewer tokens"
            raise ApiError(504, "deadline_exceeded", message, kind="server_error")
        return {**self._headers, TIMEOUT: f"{left_s:.3f}"}

    def body(self) -> bytes:
        """For the next try, which goes on after what was made."""
        if self.journal is None:
            return self.ask.body
        self.journal.begin_again()
        return self.journal.continued(self.ask.body)

    def broke(self) -> None:
        """A pod that worked on it is lost."""
        if self._broke_at is None and self.begun:
            self._broke_at, self._made_then = time.monotonic(), self.made

    def heard(self) -> None:
        """A pod that works on it said something; cheap, for every piece of a stream."""
        if self._broke_at is not None and self.made > self._made_then:
            self._mended(time.monotonic() - self._broke_at)
            self._broke_at = None
