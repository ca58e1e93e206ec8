"""The two generating routes: body → door → tokens → engine → text, and everything given back at the end.

One ASGI application per route and not a framework handler, because a stream must notice the client's leaving while it
waits for the engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from topmast_server.api.admission import Admission, Ticket, answer_tokens, refuse_endless_text
from topmast_server.api.body import ClientGone, parse, read_body
from topmast_server.api.errors import ApiError, bad_request, internal_error
from topmast_server.api.generation import Choice, Generation, Piece
from topmast_server.api.protocol import ChatRequest, CompletionRequest
from topmast_server.api.service import Service, TextSide
from topmast_server.api.shapes import ChatShape, CompletionShape, Shape, Usage
from topmast_server.api.stream import EventStream
from topmast_server.messages import Sampling
from topmast_server.supervisor.supervisor import EngineLost, Sequence

_log: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class Job:
    """A request that was understood: what to generate, and how to spell it."""

    request: ChatRequest | CompletionRequest
    shape: Shape
    prompts: list[list[int]]
    max_tokens: list[int]
    stop_token_ids: list[int]

    @property
    def prompt_tokens(self) -> int:
        """As usage counts them: each prompt once, however many answers it gets."""
        return sum(map(len, self.prompts))

    def sequences(self) -> list[Sequence]:
        """n per prompt, in the order of the choices' indexes."""
        request = self.request
        return [
            Sequence(prompt, limit, _sampling(request, place), self.stop_token_ids, request.ignore_eos)
            for prompt, limit in zip(self.prompts, self.max_tokens, strict=True)
            for place in range(request.n)
        ]


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
        with service.in_flight:
            try:
                await self._answer(scope, receive, send, stream)
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

    async def _answer(self, scope: Scope, receive: Receive, send: Send, stream: EventStream) -> None:
        service = self._service
        arrived_s = time.monotonic()
        body = await read_body(Headers(scope=scope), receive)
        admission, text = service.doors()
        request = await parse(self._kind, body)
        if request.model not in service.names:
            known = ", ".join(service.names)
            message = f"the model {request.model[:100]!r} is not served here; this server has: {known}"
            raise ApiError(404, message, param="model", code="model_not_found")
        with self._enter(admission, request, len(body)) as ticket:
            job = await self._prepare(scope["state"]["request_id"], request, admission, text, ticket)
            choices = [Choice(text.vocabulary, request.stop, arrived_s) for _ in job.sequences()]
            generation = Generation(service.supervisor, job.sequences(), choices, service.metrics, arrived_s)
            with generation:
                watcher = asyncio.ensure_future(_when_client_leaves(receive, generation))
                try:
                    if request.stream:
                        await self._stream(job, generation, ticket, stream)
                    else:
                        await self._collect(job, generation, ticket, send)
                finally:
                    watcher.cancel()
                    service.metrics.cancelled("client_left", generation.left_early)
                    scope["state"]["tokens"] = (job.prompt_tokens, sum(choice.tokens for choice in choices))

    def _enter(self, admission: Admission, request: ChatRequest | CompletionRequest, body_bytes: int) -> Ticket:
        prompts = 1 if isinstance(request, ChatRequest) else len(request.prompts)
        try:
            return admission.enter(prompts * request.n, body_bytes)
        except ApiError:
            self._service.metrics.rejected("server_full")
            raise

    async def _prepare(
        self,
        request_id: str,
        request: ChatRequest | CompletionRequest,
        admission: Admission,
        text: TextSide,
        ticket: Ticket,
    ) -> Job:
        context = admission.limits.max_context_tokens
        include_usage = request.stream_options is not None and request.stream_options.include_usage
        naming = (request_id, self._service.names[0], include_usage)
        shape: Shape
        prompts: list[list[int]] = []
        if isinstance(request, ChatRequest):
            shape = ChatShape(*naming)
            prompt = text.template.render(request.messages, request.chat_template_kwargs)
            refuse_endless_text(prompt, text.longest_token_bytes, context)
            prompts.append(await text.encode(prompt, add_special=False))
        else:
            shape = CompletionShape(*naming)
            for given in request.prompts:
                prompts.append(await _token_ids(given, text, context))
        # The file's token list names endings that its scalar metadata, all that the engine reads, may not.
        endings = [] if request.ignore_eos else text.tokenizer.stop_token_ids
        job = Job(request, shape, prompts, [], [*request.stop_token_ids, *endings])
        self._service.input_tokens += job.prompt_tokens
        job.max_tokens = [answer_tokens(len(prompt), request.token_limit, context) for prompt in prompts]
        try:
            ticket.correct(job.prompt_tokens * request.n)
        except ApiError:
            self._service.metrics.rejected("server_full")
            raise
        self._service.metrics.accepted(job.prompt_tokens, max(job.max_tokens), request.n)
        return job

    async def _stream(self, job: Job, generation: Generation, ticket: Ticket, stream: EventStream) -> None:
        opened: set[int] = set()
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
                options = job.request.stream_options
                if options is not None and options.include_usage:
                    events.append(job.shape.usage(_usage(job, generation)))
                await stream.done(events)
                return
            if events:
                await stream.events(events)

    async def _collect(self, job: Job, generation: Generation, ticket: Ticket, send: Send) -> None:
        texts: list[list[str]] = [[] for _ in generation.choices]
        while not generation.finished:
            for piece in await _next(generation, ticket):
                texts[piece.index].append(piece.text)
        answers = [
            ("".join(parts), choice.finish or "") for parts, choice in zip(texts, generation.choices, strict=True)
        ]
        body = job.shape.whole(answers, _usage(job, generation))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _fail(answer: ApiError, stream: EventStream, scope: Scope, receive: Receive, send: Send) -> None:
    if stream.started:
        await stream.fail(answer)
    else:
        await answer.response()(scope, receive, send)


async def _next(generation: Generation, ticket: Ticket) -> list[Piece]:
    pieces = await generation.pieces()
    if generation.started:
        ticket.prefilled()
    return pieces


async def _when_client_leaves(receive: Receive, generation: Generation) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.abandon(ClientGone())


async def _token_ids(given: str | list[int], text: TextSide, context: int) -> list[int]:
    if isinstance(given, str):
        refuse_endless_text(given, text.longest_token_bytes, context)
        ids = await text.encode(given, add_special=True)
        if not ids:
            raise bad_request("the prompt is empty; send at least one character", "prompt")
        return ids
    size = text.tokenizer.vocab_size
    if (largest := max(given)) >= size:
        raise bad_request(f"token id {largest} does not exist; this model has {size} tokens", "prompt")
    return given


def _sampling(request: ChatRequest | CompletionRequest, place: int) -> Sampling:
    # Choices of one request must differ, and do so the same way every time.
    seed = None if request.seed is None else (request.seed + place) % 2**63
    return Sampling(request.temperature, max(0, request.top_k), request.top_p, request.min_p, seed)


def _usage(job: Job, generation: Generation) -> Usage:
    choices = generation.choices
    answers = sum(choice.tokens for choice in choices)
    return Usage(job.prompt_tokens, answers, sum(choice.cached_tokens for choice in choices[:: job.request.n]))
