"""One pod's turn at an answer: send the request, and pass on what comes back."""

from __future__ import annotations

import asyncio
import logging

from topmast_gateway import journal as journals
from topmast_gateway import told
from topmast_gateway.engines import Engines
from topmast_gateway.errand import Errand
from topmast_gateway.errors import Refusal
from topmast_gateway.headers import towards_client
from topmast_gateway.journal import EngineError, Journal
from topmast_gateway.metrics import Metrics
from topmast_gateway.misses import Answer, EngineGone, Silent, miss_of
from topmast_gateway.patience import Patience
from topmast_gateway.relay import Torn, follow, relay
from topmast_gateway.reply import Reply
from topmast_gateway.trial import Trial

log = logging.getLogger(__name__)

_JOURNAL = journals.HEADER.encode()
_TOKENISED_BYTES_PER_S = 200_000  # of a prompt, by a busy engine: it says nothing before that


class Attempts:
    """What all tries share: the connections, and which models' engines were seen to keep journals."""

    def __init__(self, engines: Engines, metrics: Metrics, patience: Patience) -> None:
        self._engines = engines
        self._metrics = metrics
        self._patience = patience
        self._journaling: set[str] = set()

    async def at(self, trial: Trial, errand: Errand) -> None:
        """Returns when the client has all that it will get; raises a Miss where another try may help."""
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
                    await follow(response, errand.journal, errand, patience, trial)
                    if errand.journal.done:
                        trial.worked()
                    await _conclude(errand.journal, errand.reply)
                    return
                errand.tally.exact = False  # whatever an earlier pod's journal has told
                if (response.header(b"content-type") or b"").startswith(b"text/event-stream"):
                    clock.reschedule(None)
                    why = ask.no_journal or "this model's servers keep no journal"
                    await relay(response, errand, patience.progress, why, trial)
                    trial.worked()
                    return
                answer = Answer(response.status, response.headers, await response.read())
        except TimeoutError:
            if known:
                self._journaling.discard(errand.model)  # it may be served by other engines from now on
                raise Silent(f"no answer began within {wait_s:.0f} s") from None
            self._metrics.upstream_errors.labels(errand.model, "timeout").inc()
            if ask.stream:  # otherwise the answer may just be a long one
                trial.failed()
            message = f"the model did not begin to answer within {wait_s:.0f} s; ask for a shorter answer"
            raise Refusal(504, "upstream_timeout", message, kind="server_error") from None
        except Torn as torn:
            self._metrics.upstream_errors.labels(errand.model, "torn").inc()
            if not isinstance(torn.__cause__, TimeoutError):  # that may be a client who does not read
                trial.failed()
            log.warning("%s: the stream from pod %s ended early: %s", errand.reply.request_id, pod.name, torn)
            return
        if miss := miss_of(answer):
            raise miss
        (trial.failed if answer.status >= 500 else trial.worked)()
        if answer.status == 200:
            told.by_answer(answer.body, errand.tally)
        await hand_on(answer, errand.reply)


async def _conclude(journal: Journal, reply: Reply) -> None:
    """The last words of an answer with a journal: its end, or the error that it came to."""
    error = journal.error
    if error is not None and error.may_move:
        raise EngineGone(error.code)
    if error is not None:
        await hand_on(_as_answer(error), reply)
    elif reply.status is None:
        await reply.json(200, journal.body)
    else:
        await reply.end()


def _as_answer(error: EngineError) -> Answer:
    retry = [(b"retry-after", str(error.retry_after_s).encode())] if error.retry_after_s else []
    return Answer(error.status, [(b"content-type", b"application/json"), *retry], error.body)


async def hand_on(answer: Answer, reply: Reply) -> None:
    """An engine's complete answer. A stream that was begun has no status left for it, only a last event."""
    if reply.status is None:
        await reply.whole(answer.status, answer.body, towards_client(answer.headers))
    else:
        event = b"data: %b\n\n" % answer.body.replace(b"\n", b" ")
        await (reply.end(event) if answer.status == 200 else reply.break_off(event))
