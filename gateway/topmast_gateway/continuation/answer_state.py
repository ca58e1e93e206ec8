"""One request on its way: what was asked, how far its answer is, and how long it may still take.

Shared by the tries that work on it, one after another. It decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from topmast_gateway.continuation.journal import JOURNAL_HEADER, Journal
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.headers import RAW_TIMEOUT, TIMEOUT, seconds_of, towards_engine
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.messages.token_usage import TokenUsage


class AnswerState:
    """`model` is the key of the model that answers; `journal` is None where the answer cannot have one.

    `deadline` is the caller's own, in monotonic seconds. `on_resumed` gets the model, and the seconds from a break of
    the answer to its first new token.
    """

    def __init__(
        self,
        request: CompletionRequest,
        model: str,
        headers: Mapping[bytes, bytes],
        writer: ResponseWriter,
        usage: TokenUsage,
        deadline: float | None,
        on_resumed: Callable[[str, float], None],
    ) -> None:
        self.request, self.model, self.writer, self.usage = request, model, writer, usage
        self.journal = None if request.no_journal else Journal(usage, whole=not request.stream)
        self._headers = towards_engine(headers, writer.request_id)
        if self.journal is not None:
            self._headers[JOURNAL_HEADER] = "1"
        self._deadline = deadline
        said = headers.get(RAW_TIMEOUT)
        self._is_nonsense = said is not None and seconds_of(said) is None  # which is for the engine to refuse
        self.first_token_at: float | None = None  # monotonic
        self._on_resumed = on_resumed
        self._interrupted_at: float | None = None
        self._kept_then = 0

    @property
    def tokens_kept(self) -> int:
        """Tokens that need not be generated again."""
        return 0 if self.journal is None else len(self.journal.token_ids)

    @property
    def started(self) -> bool:
        """Whether giving up now would lose something."""
        return self.tokens_kept > 0 or self.writer.answered_at is not None

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
        if self._is_nonsense:
            return self._headers
        return {**self._headers, TIMEOUT: f"{left_s:.3f}"}

    def body(self) -> bytes | bytearray:
        """For the next try, which continues after what was generated."""
        if self.journal is None:
            return self.request.body
        self.journal.restart()
        return self.journal.continued(self.request.body)

    def interrupted(self) -> None:
        """A pod that worked on it is lost."""
        if self._interrupted_at is None and self.started:
            self._interrupted_at, self._kept_then = time.monotonic(), self.tokens_kept

    def note_first_token(self) -> None:
        """The answer has started; saying it twice changes nothing."""
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()

    def note_progress(self) -> None:
        """A pod that works on it said something."""
        if self.first_token_at is None and self.tokens_kept > 0:
            self.note_first_token()
        if self._interrupted_at is not None and self.tokens_kept > self._kept_then:
            self._on_resumed(self.model, time.monotonic() - self._interrupted_at)
            self._interrupted_at = None
