"""Passes an event stream on, unbuffered and never torn: the client only ever sees whole events.

With a journal a stream that breaks is continued elsewhere; without one a failure after the first byte becomes an error
event that every client notices.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Final

from topmast_gateway.config import Timeouts
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.continuation.event_buffer import EventBuffer, EventTooLarge
from topmast_gateway.continuation.journal import JOURNAL_HEADER, Journal
from topmast_gateway.messages.errors import sse_error
from topmast_gateway.messages.headers import towards_client
from topmast_gateway.messages.request import ClientDisconnected
from topmast_gateway.messages.response import Outgoing, ResponseWriter
from topmast_gateway.messages.token_usage import count_events
from topmast_gateway.routing.outlier_detection import AttemptResult
from topmast_gateway.upstream.engine_response import EngineResponse
from topmast_gateway.upstream.failures import BadAnswer, ConnectionLost, EngineSilent

_JOURNAL: Final = JOURNAL_HEADER.encode()
_CLIENT_SILENCE_S: Final = 10.0  # after which a waiting client, and the proxies before it, are shown that there is work


class StreamBroken(Exception):
    """The stream ended early; the client got an error event."""


async def relay_journal(
    response: EngineResponse, journal: Journal, state: AnswerState, timeouts: Timeouts, result: AttemptResult
) -> None:
    """Read a journal to its end, and pass on what a client that streams may have.

    Afterwards the journal is done or has an error. ConnectionLost or EngineSilent where the connection ended before,
    BadAnswer where it is no journal.
    """
    relay = _JournalRelay(response, journal, state, timeouts, result)
    try:
        await relay.run()
    except TimeoutError:
        if relay.client_is_slow:
            raise ClientDisconnected from None  # it has read nothing for a long time: nobody waits for the rest
        raise EngineSilent(f"nothing came for {timeouts.silence_s:.0f} s") from None
    if not journal.done and journal.error is None:
        raise ConnectionLost("the stream ended before the answer did")


async def relay_stream(
    response: EngineResponse, state: AnswerState, progress_s: float, why_no_journal: str, result: AttemptResult
) -> None:
    """Send a stream without a journal to the client. ConnectionLost before its first byte; StreamBroken after it."""
    relay, writer = _PlainRelay(response, state, progress_s, result), state.writer
    try:
        await relay.run()
    except (ConnectionLost, EventTooLarge, TimeoutError) as error:
        if writer.status is None:
            raise (BadAnswer(str(error)) if isinstance(error, EventTooLarge) else error) from None
        what = f"nothing came or went for {progress_s:.0f} s" if isinstance(error, TimeoutError) else str(error)
        message = f"the connection to the model broke and this answer is not complete ({why_no_journal}); ask again"
        writer.abort(sse_error(message, "stream_lost"))
        raise StreamBroken(what) from error
    relay.end()


class _Relay(ABC):
    """Takes the pieces of a body as they are read: no task wakes for them. A client that reads slowly slows the engine.

    `run` raises TimeoutError after `silence_s` without a piece, or `progress_s` without room for one at the client.
    """

    __slots__ = ("_progress_s", "_response", "_silence_s", "_writer", "client_is_slow", "heard_at")

    def __init__(self, response: EngineResponse, writer: ResponseWriter, silence_s: float, progress_s: float) -> None:
        self._response, self._writer = response, writer
        self._silence_s, self._progress_s = silence_s, progress_s
        self.client_is_slow = False
        self.heard_at = time.monotonic()

    @abstractmethod
    def take(self, piece: bytes) -> None:
        """A piece has come, at `heard_at`; what this raises ends the relay."""

    async def run(self) -> None:
        """To the end of the answer's body."""
        self._response.idle.watch(self._silence_s, self._idle_s)
        self._writer.on_full(self._wait_for_client)
        try:
            await self._response.relay(self.take)
        finally:
            self._writer.on_full(None)

    def _idle_s(self) -> float:
        return time.monotonic() - self.heard_at

    def _wait_for_client(self) -> None:
        if not self.client_is_slow:
            self.client_is_slow, self._response.idle.limit_s = True, self._progress_s
            self._response.pause()
            self._writer.on_drained(self._go_on)

    def _go_on(self) -> None:
        self.client_is_slow, self._response.idle.limit_s = False, self._silence_s
        self._response.idle.reset()
        self._response.resume()


class _JournalRelay(_Relay):
    """Of an engine that keeps a journal."""

    __slots__ = ("_headers", "_journal", "_out", "_result", "_sent_at", "_state", "_tokens_kept")

    def __init__(
        self, response: EngineResponse, journal: Journal, state: AnswerState, timeouts: Timeouts, result: AttemptResult
    ) -> None:
        super().__init__(response, state.writer, timeouts.silence_s, timeouts.progress_s)
        self._journal, self._state, self._result = journal, state, result
        self._headers = [header for header in towards_client(response.headers) if header[0] != _JOURNAL]
        self._tokens_kept = state.tokens_kept
        self._out: Outgoing | None = None  # where events go, when what happens only once has happened
        self._sent_at = 0.0  # when one went there

    def take(self, piece: bytes) -> None:
        self.heard_at = time.monotonic()
        events = self._journal.feed(piece)
        if events and self._out is not None:
            self._sent_at = self.heard_at
            self._out.write(events)
        else:
            self._pass_on(events)
        if self._journal.wrong:
            raise BadAnswer(f"the journal is wrong: {self._journal.wrong}")

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            self._tell_writer()

    def _pass_on(self, events: bytes) -> None:
        """The first events, and pieces without one."""
        stream, writer = self._state.request.stream, self._writer
        self._tell_writer()
        if events and stream:
            writer.stream(self._headers, events)
        elif stream and writer.idle_s() > _CLIENT_SILENCE_S:
            writer.comment("working")
        if len(self._journal.token_ids) > self._tokens_kept:
            self._state.note_progress()
            self._result.first_token()
            if events and stream:
                self._out = writer.out

    def _tell_writer(self) -> None:
        self._writer.sent_at = max(self._writer.sent_at, self._sent_at)


class _PlainRelay(_Relay):
    """Of any other engine: whole events, as they are."""

    __slots__ = ("_events", "_headers", "_result", "_state")

    def __init__(self, response: EngineResponse, state: AnswerState, progress_s: float, result: AttemptResult) -> None:
        super().__init__(response, state.writer, progress_s, progress_s)
        self._state, self._result = state, result
        self._headers, self._events = towards_client(response.headers), EventBuffer()

    def take(self, piece: bytes) -> None:
        self.heard_at = time.monotonic()
        if complete := self._events.feed(piece):
            self._result.first_token()
            self._state.note_first_token()
            count_events(complete, self._state.usage)
            self._writer.stream(self._headers, complete)

    def end(self) -> None:
        """What the engine said last, where no blank line follows it."""
        self._writer.stream(self._headers, self._events.rest)
        self._writer.end()
