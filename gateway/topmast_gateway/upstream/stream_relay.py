"""Passes an event stream on, unbuffered and never torn: the client only ever sees whole events.

With a journal a stream that breaks is continued elsewhere; without one a failure after the first byte becomes an error
event that every client notices.
"""

from __future__ import annotations

from collections.abc import Callable

from topmast_gateway.config import Timeouts
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.continuation.event_buffer import EventBuffer, EventTooLarge
from topmast_gateway.continuation.journal import JOURNAL_HEADER, Journal
from topmast_gateway.messages.errors import sse_error
from topmast_gateway.messages.headers import towards_client
from topmast_gateway.messages.request import ClientDisconnected
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.messages.token_usage import count_events
from topmast_gateway.routing.outlier_detection import AttemptResult
from topmast_gateway.upstream.failures import BadAnswer, ConnectionLost, EngineSilent
from topmast_gateway.upstream.http_client import EngineResponse
from topmast_gateway.upstream.idle_timeout import IdleTimeout

_CLIENT_SILENCE_S = 10.0  # after which a waiting client, and the proxies before it, are shown that there is work


class StreamBroken(Exception):
    """The stream ended early; the client got an error event."""


async def relay_journal(
    response: EngineResponse, journal: Journal, state: AnswerState, timeouts: Timeouts, result: AttemptResult
) -> None:
    """Read a journal to its end, and pass on what a client that streams may have.

    Afterwards the journal is done or has an error. ConnectionLost or EngineSilent where the connection ended before,
    BadAnswer where it is no journal.
    """
    headers = [header for header in towards_client(response.headers) if header[0] != JOURNAL_HEADER.encode()]
    writer, stream, tokens_kept = state.writer, state.request.stream, state.tokens_kept
    progressed = False

    def take(piece: bytes) -> None:
        nonlocal progressed
        if (events := journal.feed(piece)) and stream:
            writer.stream(headers, events)
        elif stream and writer.idle_s() > _CLIENT_SILENCE_S:
            writer.comment("working")
        if not progressed and len(journal.token_ids) > tokens_kept:
            progressed = True
            state.note_progress()
            result.first_token()
        if journal.wrong:
            raise BadAnswer(f"the journal is wrong: {journal.wrong}")

    relay = _Relay(response, writer, take, timeouts.silence_s, timeouts.progress_s)
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
    events, writer = EventBuffer(), state.writer
    headers = towards_client(response.headers)

    def take(piece: bytes) -> None:
        if complete := events.feed(piece):
            result.first_token()
            state.note_first_token()
            count_events(complete, state.usage)
            writer.stream(headers, complete)

    try:
        await _Relay(response, writer, take, progress_s, progress_s).run()
    except (ConnectionLost, EventTooLarge, TimeoutError) as error:
        if writer.status is None:
            raise (BadAnswer(str(error)) if isinstance(error, EventTooLarge) else error) from None
        what = f"nothing came or went for {progress_s:.0f} s" if isinstance(error, TimeoutError) else str(error)
        message = f"the connection to the model broke and this answer is not complete ({why_no_journal}); ask again"
        writer.abort(sse_error(message, "stream_lost"))
        raise StreamBroken(what) from error
    writer.stream(headers, events.rest)
    writer.end()


class _Relay:
    """Hands pieces to `take` as they are read: no task wakes for them. A client that reads slowly slows the engine.

    `run` raises TimeoutError after `silence_s` without a piece, or `progress_s` without room for one at the client.
    """

    def __init__(
        self,
        response: EngineResponse,
        writer: ResponseWriter,
        take: Callable[[bytes], None],
        silence_s: float,
        progress_s: float,
    ) -> None:
        self._response, self._writer, self._take = response, writer, take
        self._silence_s, self._progress_s = silence_s, progress_s
        self._idle: IdleTimeout
        self.client_is_slow = False

    async def run(self) -> None:
        """To the end of the answer's body."""
        async with IdleTimeout(self._silence_s, lambda: self._response.heard_at) as self._idle:
            self._writer.on_full(self._wait_for_client)
            try:
                await self._response.relay(self._take)
            finally:
                self._writer.on_full(None)

    def _wait_for_client(self) -> None:
        if not self.client_is_slow:
            self.client_is_slow, self._idle.limit_s = True, self._progress_s
            self._response.pause()
            self._writer.on_drained(self._go_on)

    def _go_on(self) -> None:
        self.client_is_slow, self._idle.limit_s = False, self._silence_s
        self._idle.reset()
        self._response.resume()
