"""Ends the work on a request from outside: because its client has gone, or because it may not continue."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from topmast_gateway.messages.request import ClientDisconnected, Incoming


class Interruption:
    """`with`: the block ends with ClientDisconnected when the client leaves, or with what `interrupt` is given."""

    __slots__ = ("_incoming", "_reason", "_task")

    def __init__(self, incoming: Incoming) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._incoming = incoming
        self._reason: Exception | None = None

    def __enter__(self) -> Self:
        self._incoming.on_disconnect(self._client_left)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._incoming.on_disconnect(None)
        if kind is asyncio.CancelledError and self._reason is not None and self._task.uncancel() == 0:
            raise self._reason from None

    def interrupt(self, reason: Exception) -> None:
        """Have the block end with `reason`; a second reason is none."""
        if self._reason is None:
            self._reason = reason
            self._task.cancel()

    def _client_left(self) -> None:
        self.interrupt(ClientDisconnected())
