"""Ends the work on a request from outside: because its client has gone, or because it may not continue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from topmast_gateway.messages.request import ClientDisconnected, Incoming


class Interruption:
    """Cancels one task, and says why."""

    def __init__(self, task: asyncio.Task[object]) -> None:
        self._task = task
        self.reason: Exception | None = None

    def interrupt(self, reason: Exception) -> None:
        """Have the block end with `reason`; a second reason is none."""
        if self.reason is None:
            self.reason = reason
            self._task.cancel()


@contextmanager
def interruptible(incoming: Incoming) -> Iterator[Interruption]:
    """The block ends with ClientDisconnected when the client leaves, or with what `interrupt` is given."""
    task = asyncio.current_task()
    assert task is not None
    interruption = Interruption(task)
    incoming.on_disconnect(lambda: interruption.interrupt(ClientDisconnected()))
    try:
        yield interruption
    except asyncio.CancelledError:
        if interruption.reason is not None and task.uncancel() == 0:
            raise interruption.reason from None
        raise
    finally:
        incoming.on_disconnect(None)
