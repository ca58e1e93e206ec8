"""Notices that a client has gone while its request is worked on, and stops that work at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from topmast_gateway.messages.asgi import Receive


class ClientDisconnected(Exception):
    """Nobody is left to read the answer."""


@asynccontextmanager
async def cancel_on_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block, and raise ClientDisconnected in its place, when the client disconnects.

    Only after the request's body was read: from then on `receive` has nothing but the disconnection to tell.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def listen() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    listener = asyncio.create_task(listen())
    try:
        yield
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise ClientDisconnected from None
        raise
    finally:
        listener.cancel()
