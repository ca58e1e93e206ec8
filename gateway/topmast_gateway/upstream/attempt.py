"""One attempt at one pod: send the request, and pass on what comes back."""

from __future__ import annotations

import logging

from topmast_gateway.config import Timeouts
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.continuation.journal import JOURNAL_HEADER, EngineError, Journal
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.headers import towards_client
from topmast_gateway.messages.response import EngineAnswer, ResponseWriter
from topmast_gateway.messages.token_usage import read_usage
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.outlier_detection import AttemptResult
from topmast_gateway.upstream.connection_pool import ConnectionPool
from topmast_gateway.upstream.failures import EngineGone, EngineSilent, failure_of
from topmast_gateway.upstream.stream_relay import StreamBroken, relay_journal, relay_stream

log = logging.getLogger(__name__)

_JOURNAL = JOURNAL_HEADER.encode()
_LARGEST_ANSWER_BYTES = 64 * 1024 * 1024  # of one that is not streamed
_TOKENISED_BYTES_PER_S = 200_000  # of a prompt, by a busy engine: it says nothing before that


class Attempts:
    """What all tries share: the connections, and what is known of pods."""

    def __init__(self, pool: ConnectionPool, loads: EndpointLoads, metrics: Metrics) -> None:
        self._pool = pool
        self._loads = loads
        self._metrics = metrics

    async def at(self, result: AttemptResult, state: AnswerState, timeouts: Timeouts) -> None:
        """Returns when the client has all that it will get; raises an UpstreamFailure where another try may help."""
        pod, request = result.pod, state.request
        wait_s = timeouts.progress_s if request.stream else timeouts.answer_s
        known = state.journal is not None and self._loads.keeps_journal(pod)
        if known:
            wait_s = timeouts.silence_s + len(request.body) / _TOKENISED_BYTES_PER_S
        try:
            connection, response = await self._pool.post(pod, request.path, state.body(), state.headers(), wait_s)
            try:
                if state.journal is not None and response.header(_JOURNAL) is not None:
                    self._loads.saw_journal(pod, True)
                    await relay_journal(response, state.journal, state, timeouts, result)
                    if state.journal.done:
                        result.succeeded()
                    _conclude(state.journal, state.writer)
                    return
                state.usage.exact = False  # whatever an earlier pod's journal said
                if (response.header(b"content-type") or b"").startswith(b"text/event-stream"):
                    why = request.no_journal or "this model's servers keep no journal"
                    await relay_stream(response, state, timeouts.progress_s, why, result)
                    result.succeeded()
                    return
                answer = EngineAnswer(response.status, response.headers, await response.read(_LARGEST_ANSWER_BYTES))
            finally:
                self._pool.release(pod, connection)
        except TimeoutError:
            if known:
                if not pod.revision:  # of which all pods are alike; without one, other engines may serve by now
                    self._loads.saw_journal(pod, False)
                raise EngineSilent(f"no answer began within {wait_s:.0f} s") from None
            self._metrics.upstream_errors.labels(state.model, "timeout").inc()
            if request.stream:  # otherwise the answer may just be a long one
                result.failed()
            message = f"the model did not begin to answer within {wait_s:.0f} s; ask for a shorter answer"
            raise ApiError(504, "upstream_timeout", message, kind="server_error") from None
        except StreamBroken as torn:
            self._metrics.upstream_errors.labels(state.model, "torn").inc()
            if not isinstance(torn.__cause__, TimeoutError):  # that may be a client who does not read
                result.failed()
            log.warning("%s: the stream from pod %s ended early: %s", state.writer.request_id, pod.name, torn)
            return
        if failure := failure_of(answer):
            raise failure
        (result.failed if answer.status >= 500 else result.succeeded)()  # 501 and others that no retry would heal
        if answer.status == 200:
            read_usage(answer.body, state.usage)
        send_answer(answer, state.writer)


def _conclude(journal: Journal, writer: ResponseWriter) -> None:
    """The last words of an answer with a journal: its end, or the error that it came to."""
    error = journal.error
    if error is not None and error.retryable:
        raise EngineGone(error.code)
    if error is not None and (failure := failure_of(_as_answer(error))):
        failure.broken = False  # the engine took the request and generated some of it: the fault may be the request's
        raise failure
    if error is not None:
        send_answer(_as_answer(error), writer)
    elif writer.status is None:
        writer.json(200, journal.body)
    else:
        writer.end()


def _as_answer(error: EngineError) -> EngineAnswer:
    retry = [(b"retry-after", str(error.retry_after_s).encode())] if error.retry_after_s else []
    return EngineAnswer(error.status, [(b"content-type", b"application/json"), *retry], error.body)


def send_answer(answer: EngineAnswer, writer: ResponseWriter) -> None:
    """An engine's complete answer. A stream that was started has no status left for it, only a last event."""
    if writer.status is None:
        writer.whole(answer.status, answer.body, towards_client(answer.headers))
    else:
        event = b"data: %b\n\n" % answer.body.replace(b"\n", b" ")
        (writer.end if answer.status == 200 else writer.abort)(event)
