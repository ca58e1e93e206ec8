"""Reading a request's body within bounds: bytes, and seconds.

A body that is too large is read to its end without being kept, so that the client gets to see the answer.
"""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.types import Receive

from topmast_server.api.errors import ApiError, from_validation

MAX_BODY_BYTES: Final = 8 * 2**20
_DISCARD_BYTES: Final = 64 * 2**20
_BODY_TIMEOUT_S: Final = 60.0
_PARSE_IN_THREAD_BYTES: Final = 256 * 2**10


Body = TypeVar("Body", bound=BaseModel)


class ClientGone(Exception):
    """The client closed the connection; nobody reads an answer."""


async def read_body(headers: Headers, receive: Receive) -> bytes:
    """The whole body; 413 beyond MAX_BODY_BYTES, 408 when it takes too long."""
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES and "expect" in headers:
        raise _too_large()  # the client waits for our word before it sends anything
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            return await _read(receive)
    except TimeoutError:
        message = f"the request's body did not arrive within {_BODY_TIMEOUT_S:.0f} s; send it faster"
        raise ApiError(408, message, code="timeout", close=True) from None


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = event.get("body", b"")
        size += len(part)
        if size <= MAX_BODY_BYTES:
            parts.append(part)
        else:
            parts.clear()
        if size > _DISCARD_BYTES:
            break
        more = event.get("more_body", False)
    if size > MAX_BODY_BYTES:
        raise _too_large()
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
