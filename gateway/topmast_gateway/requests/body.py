"""Reads a request's body, within bounds of size and of time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from topmast_gateway.messages.completion import MAX_BODY_BYTES
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.request import Request

_BODY_PROGRESS_S, _BODY_PROGRESS_BYTES = 30.0, 64 * 1024  # so much must come in that time, or the body's end


def too_large() -> ApiError:
    """413 with the limit in it."""
    return ApiError(
        413,
        "request_too_large",
        f"the request body is larger than {MAX_BODY_BYTES} bytes: send a shorter prompt",
        headers=((b"connection", b"close"),),
    )


def announced_length(headers: Mapping[bytes, bytes]) -> int:
    """The body's announced size in bytes, 0 when it is not announced (chunked)."""
    value = headers.get(b"content-length", b"0")
    return int(value) if value.isdigit() and len(value) < 20 else 0


async def read_body(request: Request, take: Callable[[int], None]) -> bytearray:
    """The whole body; 413 as soon as it is known to be too large, 408 when it stops coming, or only drips.

    `take` reserves room for so many more bytes before they are kept, or refuses it.
    """
    if announced_length(request.headers) > MAX_BODY_BYTES:
        raise too_large()
    if request.incoming.is_whole:
        body = bytearray(await request.incoming.read())
        take(len(body))
        return body
    body = bytearray()  # no list of pieces: there can be millions of a byte each
    counted = 0
    try:
        async with asyncio.timeout(_BODY_PROGRESS_S) as clock:
            while piece := await request.incoming.read():
                if len(body) + len(piece) > MAX_BODY_BYTES:
                    raise too_large()
                take(len(piece))
                body += piece
                if len(body) >= counted + _BODY_PROGRESS_BYTES:
                    counted = len(body)
                    clock.reschedule(asyncio.get_running_loop().time() + _BODY_PROGRESS_S)
            return body
    except TimeoutError:
        raise ApiError(
            408,
            "request_timeout",
            f"the request body came too slowly for {_BODY_PROGRESS_S:.0f} s: send it again",
            headers=((b"connection", b"close"),),
        ) from None
