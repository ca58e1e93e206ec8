"""The two generating routes: door → body → tokens → engine → text, and everything given back at the end.

One ASGI application per route and not a framework handler, because a stream must notice the client's leaving while it
waits for the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from topmast_server.api.admission import Admission, Ticket, Wanted
from topmast_server.api.body import ClientGone, HeldBody, parse, read_body
from topmast_server.api.errors import ApiError, internal_error
from topmast_server.api.generation import Choice, Generation, Piece
from topmast_server.api.job import Job, understand
from topmast_server.api.protocol import ChatRequest, CompletionRequest
from topmast_server.api.service import Service
from topmast_server.api.shapes import with_timing
from topmast_server.api.stream import EventStream
from topmast_server.api.terms import Terms, terms
from topmast_server.api.timing import timing_object
from topmast_server.supervisor.supervisor import EngineLost

_log: Final = logging.getLogger(__name__)
_REFUSALS: Final = frozenset({"server_full", "deadline_exceeded"})
_ALIVE_S: Final = 1.0  # a journal's longest silence


class GenerationEndpoint:
    """`POST` of one route; which one is told by the kind of its request."""

    def __init__(self, service: Service, kind: type[ChatRequest] | type[CompletionRequest]) -> None:
        self._service = service
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every way out leaves no sequence and no reservation behind."""
        service = self._service
        stream = EventStream(send)
        service.requests += 1
        with service.in_flight, service.bodies.hold() as held:
            try:
                await self._answer(held, scope, receive, send, stream)
            except ClientGone:
                scope["state"]["outcome"] = "client left"
            except (ApiError, EngineLost) as error:
                answer = error if isinstance(error, ApiError) else ApiError(500, str(error), code="engine_lost")
                scope["state"]["outcome"] = answer.code or answer.message
                await _fail(answer, stream, scope, receive, send)
            except Exception:
                _log.exception("request %s failed", scope["state"]["request_id"])
                scope["state"]["outcome"] = "internal"
                await _fail(internal_error(), stream, scope, receive, send)
            finally:
                service.requests_finished += 1

    async def _answer(self, held: HeldBody, scope: Scope, receive: Receive, send: Send, stream: EventStream) -> None:
        service = self._service
        came_s = time.monotonic()
        headers = Headers(scope=scope)
        with self._refusals_counted():
            # What no body could change: an overloaded server should not read and parse what it turns away.
            service.doors()[0].refuse_when_full()
            body = await read_body(headers, receive, held)
        arrived_s, body_bytes = time.monotonic(), len(body)
        admission, text = service.doors()
        request = await parse(self._kind, body)
        del body  # what is kept of it is in the request
        if request.model not in service.names:
            known = ", ".join(service.names)
            message = f"the model {request.model[:100]!r} is not served here; this server has: {known}"
            raise ApiError(404, message, param="model", code="model_not_found")
        asked = terms(headers, request, came_s)
        with self._enter(admission, request, asked, body_bytes) as ticket:
            context = admission.limits.max_context_tokens
            naming = (scope["state"]["request_id"], service.names[0])
            job = await understand(request, asked, text, naming, context)
            held.release()  # what the context has room for is small
            service.input_tokens += job.prompt_tokens
            sequences = job.sequences(limits := job.limits(context))
            with self._refusals_counted():
                ticket.correct(job.tokens_to_compute)
            service.metrics.accepted(job.prompt_tokens, max(limits), request.n)
            choices = [Choice(text.vocabulary, request.stop, arrived_s) for _ in sequences]
            generation = Generation(service.supervisor, sequences, choices, service.metrics, arrived_s)
            with generation:
                tasks = [asyncio.ensure_future(_when_client_leaves(receive, generation))]
                try:
                    if job.journal:
                        await stream.keep_journal(job.prompt_tokens, job.shape.created)
                        tasks.append(asyncio.ensure_future(_show_life(stream)))
                    if request.stream:
                        await _stream(job, generation, ticket, stream)
                    else:
                        await _collect(job, generation, ticket, stream, send)
                    for choice in choices:
                        admission.ttft_estimate.answered(choice.tokens)
                finally:
                    for task in tasks:
                        task.cancel()
                    service.metrics.cancelled("client_left", generation.left_early)
                    scope["state"]["tokens"] = (job.prompt_tokens, sum(choice.tokens for choice in choices))

    @contextlib.contextmanager
    def _refusals_counted(self) -> Iterator[None]:
        """Whoever is turned away in the block for want of room or time is one more in the metrics."""
        try:
            yield
        except ApiError as error:
            if error.code in _REFUSALS:
                self._service.metrics.rejected(error.code)
            raise

    def _enter(
        self, admission: Admission, request: ChatRequest | CompletionRequest, asked: Terms, body_bytes: int
    ) -> Ticket:
        prompts = 1 if isinstance(request, ChatRequest) else len(request.prompts)
        patience_s = None if asked.deadline_s is None else asked.deadline_s - time.monotonic()
        wanted = Wanted(prompts * request.n, body_bytes, request.priority, request.token_limit, patience_s)
        with self._refusals_counted():
            return admission.enter(wanted)


async def _stream(job: Job, generation: Generation, ticket: Ticket, stream: EventStream) -> None:
    opened: set[int] = set()
    if job.replayed:
        generation.choices[0].replay(job.replayed)
        opened.add(0)
    while True:
        events: list[bytes] = []
        for piece in await _next(generation, ticket):
            if piece.index not in opened:
                opened.add(piece.index)
                if (opening := job.shape.opening(piece.index)) is not None:
                    events.append(opening)
            if piece.text:
                events.append(job.shape.text(piece.index, piece.text))
            if piece.finish is not None:
                events.append(job.shape.finish(piece.index, piece.finish))
        if generation.finished:
            if job.tells_usage:
                events.append(job.shape.usage(job.usage(generation.choices)))
            if job.terms.timing:
                events[-1] = with_timing(events[-1], timing_object(generation))
            await stream.done(events, *_journal(job, generation))
            return
        if events or job.journal:
            await stream.events(events, *_journal(job, generation))


async def _collect(job: Job, generation: Generation, ticket: Ticket, stream: EventStream, send: Send) -> None:
    texts: list[list[str]] = [[choice.replay(job.replayed)] for choice in generation.choices]
    while not generation.finished:
        for piece in await _next(generation, ticket):
            texts[piece.index].append(piece.text)
        if job.journal and not generation.finished:
            await stream.events([], *_journal(job, generation))
    answers = [("".join(parts), choice.finish or "") for parts, choice in zip(texts, generation.choices, strict=True)]
    body = job.shape.whole(answers, job.usage(generation.choices))
    if job.terms.timing:
        body = with_timing(body, timing_object(generation))
    if job.journal:
        await stream.done([body], *_journal(job, generation))
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _journal(job: Job, generation: Generation) -> tuple[list[int], int | None]:
    """What the journal tells of the step: new tokens, and with the first of them what the cache had of the prompt."""
    if not job.journal:
        return [], None
    choice = generation.choices[0]
    news = choice.news()
    is_first = choice.tokens == len(job.replayed) + len(news)
    return news, min(choice.cached_tokens, job.prompt_tokens) if is_first and news else None


async def _show_life(stream: EventStream) -> None:
    """For as long as the engine is watched over: its hanging ends every request with an error of its own."""
    while True:
        stream.quiet = True
        await asyncio.sleep(_ALIVE_S)
        if stream.quiet:
            await stream.alive()


async def _fail(answer: ApiError, stream: EventStream, scope: Scope, receive: Receive, send: Send) -> None:
    if stream.started:
        await stream.fail(answer)
    else:
        await answer.response()(scope, receive, send)


async def _next(generation: Generation, ticket: Ticket) -> list[Piece]:
    pieces = await generation.pieces()
    if generation.started:
        ticket.prefilled()
        ticket.made(sum(choice.tokens for choice in generation.choices))
    return pieces


async def _when_client_leaves(receive: Receive, generation: Generation) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.abandon(ClientGone())
