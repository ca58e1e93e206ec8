"""Reading a request's body within bounds: bytes of one, of all together, and seconds.

A body that is refused is read to its end without being kept, so that the client gets to see the answer.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.types import Receive

from topmast_server.api.errors import ApiError, from_validation

MAX_BODY_BYTES: Final = 8 * 2**20
_DISCARD_BYTES: Final = 64 * 2**20
_BODY_TIMEOUT_S: Final = 60.0
_PARSE_IN_THREAD_BYTES: Final = 256 * 2**10
_MOST_HELD_BYTES: Final = 64 * 2**20
_SMALL_BYTES: Final = 64 * 2**10  # of each body are free: large ones must not shut small ones out


Body = TypeVar("Body", bound=BaseModel)


class ClientGone(Exception):
    """The client closed the connection; nobody reads an answer."""


class BodyRoom:
    """Memory for bodies that are being read, or not tokenised yet: taken as they come, not as they are announced."""

    def __init__(self, most_bytes: int = _MOST_HELD_BYTES) -> None:
        self.most_bytes = most_bytes
        self.taken_bytes = 0

    def hold(self) -> HeldBody:
        """Room for one body, none of it taken yet."""
        return HeldBody(self)


class HeldBody:
    """`with`: what one body takes until the block ends, or `release`."""

    __slots__ = ("_room", "_size", "_taken")

    def __init__(self, room: BodyRoom) -> None:
        self._room = room
        self._size = self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def grow(self, more_bytes: int) -> None:
        """So much more has come; 503 where there is no room for it."""
        self._size += more_bytes
        more = max(0, self._size - _SMALL_BYTES) - self._taken
        if self._room.taken_bytes + more > self._room.most_bytes:
            message = "this server holds too many large requests; try again in 1 s or elsewhere"
            raise ApiError(503, message, code="server_full", retry_after_s=1)
        self._room.taken_bytes += more
        self._taken += more

    def release(self) -> None:
        """Nothing of it is kept any more; twice is harmless."""
        self._room.taken_bytes -= self._taken
        self._taken = 0


async def read_body(headers: Headers, receive: Receive, held: HeldBody) -> bytes:
    """The whole body; 413 beyond MAX_BODY_BYTES, 503 where there is no room for it, 408 when it takes too long."""
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES and "expect" in headers:
        raise _too_large()  # the client waits for our word before it sends anything
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            return await _read(receive, held)
    except TimeoutError:
        message = f"the request's body did not arrive within {_BODY_TIMEOUT_S:.0f} s; send it faster"
        raise ApiError(408, message, code="timeout", close=True) from None


async def _read(receive: Receive, held: HeldBody) -> bytes:
    parts: list[bytes] = []
    size = 0
    more = True
    refusal: ApiError | None = None
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = event.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            refusal = _too_large()
        if refusal is None:
            try:
                held.grow(len(part))
                parts.append(part)
            except ApiError as full:
                refusal = full
        if refusal is not None:
            parts.clear()
            held.release()
        if size > _DISCARD_BYTES:
            break
        more = event.get("more_body", False)
    if refusal is not None:
        raise refusal
    return b"".join(parts)


async def parse(kind: type[Body], body: bytes) -> Body:
    """The body as a request; 400 with a sentence where it is not one. Large ones are parsed beside the loop."""
    try:
        if len(body) > _PARSE_IN_THREAD_BYTES:
            return await asyncio.to_thread(kind.model_validate_json, body)
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error) from None


def _too_large() -> ApiError:
    message = f"the body is larger than {MAX_BODY_BYTES // 2**20} MiB, the limit of this server; shorten the prompt"
    return ApiError(413, message, code="request_too_large", close=True)
