"""One streamed completion over a raw connection, noted as cheaply as Python allows and understood only afterwards.

Client and server share the cores, so while an answer arrives nothing is parsed: each read is kept with its time. The
same client serves every contestant. It knows nothing of rates, scenarios or statistics.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final, cast

_MAX_ANSWER_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a contestant listens on this machine, and the name that it gives the model."""

    port: int
    model: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: token ids in, exactly `output_tokens` out unless it is ended early."""

    prompt: list[int]
    output_tokens: int
    extra: dict[str, Any] = field(default_factory=dict)  # further fields of the body
    leave_after_s: float | None = None  # the client closes the connection then

    def body(self, model: str) -> bytes:
        """OpenAI's completion request, with the one extension that all contestants share: ignore_eos."""
        fields = {"model": model, "prompt": self.prompt, "max_tokens": self.output_tokens, "temperature": 0}
        fields |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(fields | self.extra).encode()


@dataclass(slots=True)
class Answer:
    """What the client saw. Times in seconds of CLOCK_MONOTONIC; `due_s` is when the request should have been sent."""

    due_s: float
    sent_s: float
    done_s: float
    status: int = 0  # 0: no answer, or a connection that broke
    events_s: list[float] = field(default_factory=list)  # when each event with a token arrived
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    error: str | None = None  # why it is no complete answer; the code where the server gave one
    left: bool = False

    @property
    def complete(self) -> bool:
        """All of the tokens that were asked for."""
        return self.error is None and not self.left

    @property
    def ttft_s(self) -> float:
        """From when it was due, so that a late client does not flatter the server."""
        return self.events_s[0] - self.due_s

    @property
    def gaps_s(self) -> list[float]:
        """Between events; a server may put several tokens into one."""
        return [later - sooner for sooner, later in zip(self.events_s, self.events_s[1:], strict=False)]


class _Exchange(asyncio.Protocol):
    """Sends one request and keeps what comes back until the server closes the connection."""

    def __init__(self, request: bytes, begun: asyncio.Event) -> None:
        self._request = request
        self._begun = begun
        self.parts: list[bytes] = []
        self.times_s: list[float] = []
        self.size = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.times_s.append(time.monotonic())
        self.parts.append(data)
        self._begun.set()
        self.size += len(data)
        if self.size > _MAX_ANSWER_BYTES:
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def exchange(
    endpoint: Endpoint,
    ask: Ask,
    due_s: float | None = None,
    *,
    begun: asyncio.Event | None = None,
    timeout_s: float = 600.0,
) -> Answer:
    """One request from connecting to the end. Failures of the server are answers, too; it never raises for them.

    `begun` is set when the first bytes of the answer arrive, and at the end in any case.
    """
    begun = begun or asyncio.Event()
    body = ask.body(endpoint.model)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    sent_s = time.monotonic()
    answer = Answer(sent_s if due_s is None else due_s, sent_s, sent_s)
    try:
        loop = asyncio.get_running_loop()
        transport, talk = await loop.create_connection(
            lambda: _Exchange(head + body, begun), "127.0.0.1", endpoint.port
        )
    except OSError as error:
        begun.set()
        answer.done_s, answer.error = time.monotonic(), f"no connection: {error.strerror or error}"
        return answer
    try:
        await asyncio.wait([talk.closed], timeout=timeout_s if ask.leave_after_s is None else ask.leave_after_s)
        answer.left = ask.leave_after_s is not None and not talk.closed.done()
        if not talk.closed.done() and not answer.left:
            answer.error = "timeout"
    finally:
        begun.set()
        transport.abort()
    answer.done_s = talk.times_s[-1] if talk.times_s and talk.closed.done() else time.monotonic()
    _understand(answer, ask, talk)
    return answer


def _understand(answer: Answer, ask: Ask, talk: _Exchange) -> None:
    """Fill in status, events and token counts from the kept bytes."""
    raw = b"".join(talk.parts)
    head, separator, _ = raw.partition(b"\r\n\r\n")
    if not separator:
        answer.error = answer.error or (None if answer.left else "the connection closed without an answer")
        return
    answer.status = int(head.split(b" ", 2)[1])
    chunked = b"transfer-encoding: chunked" in head.lower()
    ends = list(accumulate(map(len, talk.parts)))
    if answer.status != 200:
        answer.error = answer.error or _error_code(raw[len(head) + 4 :], f"status {answer.status}")
        return
    place = 0
    for end, payload in _events(raw, len(head) + 4, chunked=chunked):
        while ends[place] < end:
            place += 1
        _take(answer, payload, talk.times_s[place])
    if answer.complete and answer.output_tokens != ask.output_tokens:
        answer.error = f"{answer.output_tokens} tokens instead of {ask.output_tokens}"


def _take(answer: Answer, payload: bytes, at_s: float) -> None:
    if payload == b"[DONE]":
        return
    event = json.loads(payload)
    if "error" in event:
        answer.error = _error_code(payload, "an error event")
    for choice in event.get("choices", ()):
        # An end without text comes with the last token, or is all there is of a token that shows nothing.
        if choice.get("text") or not choice.get("finish_reason") or not answer.events_s:
            answer.events_s.append(at_s)
    if usage := event.get("usage"):
        answer.prompt_tokens, answer.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def _events(raw: bytes, start: int, *, chunked: bool) -> Iterator[tuple[int, bytes]]:
    """Each event's payload, and the place in `raw` where its line has ended."""
    text, places = (raw[start:], [(0, start)]) if not chunked else _unchunk(raw, start)
    begin = offset = 0
    while (end := text.find(b"\n", begin)) >= 0:
        line = text[begin:end].rstrip(b"\r")
        begin = end + 1
        if line.startswith(b"data:"):
            while offset + 1 < len(places) and places[offset + 1][0] <= end:
                offset += 1
            yield end + 1 - places[offset][0] + places[offset][1], line[5:].strip()


def _unchunk(raw: bytes, start: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The body without its chunk sizes, and where each chunk lies: (place in the body, place in `raw`)."""
    pieces: list[bytes] = []
    places: list[tuple[int, int]] = []
    length = 0
    while (end := raw.find(b"\r\n", start)) >= 0:
        size = int(raw[start:end].split(b";")[0], 16)
        if size == 0:
            break
        pieces.append(raw[end + 2 : end + 2 + size])
        places.append((length, end + 2))
        length += len(pieces[-1])
        start = end + 2 + size + 2
    return b"".join(pieces), places


def _error_code(body: bytes, otherwise: str) -> str:
    """The code of OpenAI's envelope, or its message."""
    begin = body.find(b"{")
    try:
        error = json.loads(body[begin : body.rfind(b"}") + 1])["error"]
        return str(error.get("code") or error.get("message") or otherwise)[:200]
    except (ValueError, KeyError, AttributeError, TypeError):
        return otherwise
