"""One pod's turn at an answer: send the request, and pass on what comes back."""

from __future__ import annotations

import asyncio
import logging

from topmast_gateway.config import Timeouts
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.continuation.journal import JOURNAL_HEADER, EngineError, Journal
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.headers import towards_client
from topmast_gateway.messages.response import EngineAnswer, ResponseWriter
from topmast_gateway.messages.token_usage import read_usage
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.routing.outlier_detection import AttemptResult
from topmast_gateway.upstream.connection_pool import ConnectionPool
from topmast_gateway.upstream.failures import EngineGone, EngineSilent, failure_of
from topmast_gateway.upstream.stream_relay import StreamBroken, relay_journal, relay_stream

log = logging.getLogger(__name__)

_JOURNAL = JOURNAL_HEADER.encode()
_TOKENISED_BYTES_PER_S = 200_000  # of a prompt, by a busy engine: it says nothing before that


class Attempts:
    """What all tries share: the connections, and which models' engines were seen to keep journals."""

    def __init__(self, engines: ConnectionPool, metrics: Metrics, patience: Timeouts) -> None:
        self._engines = engines
        self._metrics = metrics
        self._patience = patience
        self._journaling: set[str] = set()

    async def at(self, trial: AttemptResult, errand: AnswerState) -> None:
        """Returns when the client has all that it will get; raises an UpstreamFailure where another try may help."""
        pod, ask, patience = trial.pod, errand.ask, self._patience
        wait_s = patience.progress if ask.stream else patience.answer
        known = errand.journal is not None and errand.model in self._journaling
        if known:
            wait_s = patience.silence + len(ask.body) / _TOKENISED_BYTES_PER_S
        sending = self._engines.posted(pod, ask.path, errand.body(), errand.headers())
        try:
            async with asyncio.timeout(wait_s) as clock, sending as response:
                if errand.journal is not None and response.header(_JOURNAL) is not None:
                    clock.reschedule(None)  # follow and relay have their own, which every byte moves
                    self._journaling.add(errand.model)
                    await relay_journal(response, errand.journal, errand, patience, trial)
                    if errand.journal.done:
                        trial.worked()
                    await _conclude(errand.journal, errand.reply)
                    return
                errand.tally.exact = False  # whatever an earlier pod's journal has told
                if (response.header(b"content-type") or b"").startswith(b"text/event-stream"):
                    clock.reschedule(None)
                    why = ask.no_journal or "this model's servers keep no journal"
                    await relay_stream(response, errand, patience.progress, why, trial)
                    trial.worked()
                    return
                answer = EngineAnswer(response.status, response.headers, await response.read())
        except TimeoutError:
            if known:
                self._journaling.discard(errand.model)  # it may be served by other engines from now on
                raise EngineSilent(f"no answer began within {wait_s:.0f} s") from None
            self._metrics.upstream_errors.labels(errand.model, "timeout").inc()
            if ask.stream:  # otherwise the answer may just be a long one
                trial.failed()
            message = f"the model did not begin to answer within {wait_s:.0f} s; ask for a shorter answer"
            raise ApiError(504, "upstream_timeout", message, kind="server_error") from None
        except StreamBroken as torn:
            self._metrics.upstream_errors.labels(errand.model, "torn").inc()
            if not isinstance(torn.__cause__, TimeoutError):  # that may be a client who does not read
                trial.failed()
            log.warning("%s: the stream from pod %s ended early: %s", errand.reply.request_id, pod.name, torn)
            return
        if miss := failure_of(answer):
            raise miss
        (trial.failed if answer.status >= 500 else trial.worked)()
        if answer.status == 200:
            read_usage(answer.body, errand.tally)
        await send_answer(answer, errand.reply)


async def _conclude(journal: Journal, reply: ResponseWriter) -> None:
    """The last words of an answer with a journal: its end, or the error that it came to."""
    error = journal.error
    if error is not None and error.may_move:
        raise EngineGone(error.code)
    if error is not None:
        await send_answer(_as_answer(error), reply)
    elif reply.status is None:
        await reply.json(200, journal.body)
    else:
        await reply.end()


def _as_answer(error: EngineError) -> EngineAnswer:
    retry = [(b"retry-after", str(error.retry_after_s).encode())] if error.retry_after_s else []
    return EngineAnswer(error.status, [(b"content-type", b"application/json"), *retry], error.body)


async def send_answer(answer: EngineAnswer, reply: ResponseWriter) -> None:
    """An engine's complete answer. A stream that was begun has no status left for it, only a last event."""
    if reply.status is None:
        await reply.whole(answer.status, answer.body, towards_client(answer.headers))
    else:
        event = b"data: %b\n\n" % answer.body.replace(b"\n", b" ")
        await (reply.end(event) if answer.status == 200 else reply.break_off(event))
