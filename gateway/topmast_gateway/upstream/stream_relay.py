"""Passes an event stream on, unbuffered and never torn: the client only ever sees whole events.

With a journal a stream that breaks is continued elsewhere; without one a failure after the first byte becomes an error
event that every client notices.
"""

from __future__ import annotations

import asyncio
import contextlib

from topmast_gateway.config import Timeouts
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.continuation.event_buffer import EventBuffer, EventTooLarge
from topmast_gateway.continuation.journal import JOURNAL_HEADER, Journal
from topmast_gateway.messages.disconnect import ClientDisconnected
from topmast_gateway.messages.errors import sse_error
from topmast_gateway.messages.headers import towards_client
from topmast_gateway.messages.token_usage import count_events
from topmast_gateway.routing.outlier_detection import AttemptResult
from topmast_gateway.upstream.failures import BadAnswer, ConnectionLost, EngineSilent
from topmast_gateway.upstream.http_client import EngineResponse
from topmast_gateway.upstream.idle_timeout import IdleTimeout

_LAST_WORD_S = 5.0  # for a client that does not read
_CLIENT_SILENCE_S = 10.0  # after which a waiting client, and the proxies before it, are told that there is work


class StreamBroken(Exception):
    """The stream ended early; the client was told by an error event."""


async def relay_journal(
    response: EngineResponse, journal: Journal, state: AnswerState, timeouts: Timeouts, result: AttemptResult
) -> None:
    """Read a journal to its end, and pass on what a client that streams may have.

    Afterwards the journal is done or has an error. ConnectionLost or EngineSilent where the connection ended before,
    BadAnswer where it is no journal.
    """
    headers = [header for header in towards_client(response.headers) if header[0] != JOURNAL_HEADER.encode()]
    writer, stream, writing, tokens_kept = state.writer, state.request.stream, False, state.tokens_kept
    try:
        async with IdleTimeout(timeouts.silence) as idle:
            while piece := await response.chunk():
                writing, idle.limit_s = True, timeouts.progress  # from here on it is the client who may be slow
                if (events := journal.feed(piece)) and stream:
                    await writer.stream(headers, events)
                elif stream and writer.idle_s() > _CLIENT_SILENCE_S:
                    await writer.comment("working")
                writing, idle.limit_s = False, timeouts.silence
                idle.reset()
                state.note_progress()
                if state.tokens_kept > tokens_kept:
                    result.first_token()
                if journal.wrong:
                    raise BadAnswer(f"the journal is wrong: {journal.wrong}")
    except TimeoutError:
        if writing:
            raise ClientDisconnected from None  # it has read nothing for a long time: nobody waits for the rest
        raise EngineSilent(f"nothing came for {timeouts.silence:.0f} s") from None
    if not journal.done and journal.error is None:
        raise ConnectionLost("the stream ended before the answer did")


async def relay_stream(
    response: EngineResponse, state: AnswerState, progress_s: float, why_no_journal: str, result: AttemptResult
) -> None:
    """Send a stream without a journal to the client. ConnectionLost before its first byte; StreamBroken after it."""
    events, writer = EventBuffer(), state.writer
    headers = towards_client(response.headers)
    try:
        async with IdleTimeout(progress_s) as idle:
            while piece := await response.chunk():
                if complete := events.feed(piece):
                    result.first_token()
                    count_events(complete, state.usage)
                    await writer.stream(headers, complete)
                idle.reset()
    except (ConnectionLost, EventTooLarge, TimeoutError) as error:
        if writer.status is None:
            raise (BadAnswer(str(error)) if isinstance(error, EventTooLarge) else error) from None
        what = f"nothing came or went for {progress_s:.0f} s" if isinstance(error, TimeoutError) else str(error)
        message = f"the connection to the model broke and this answer is not complete ({why_no_journal}); ask again"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD_S):
                await writer.abort(sse_error(message, "stream_lost"))
        raise StreamBroken(what) from error
    await writer.stream(headers, events.rest)
    await writer.end()
