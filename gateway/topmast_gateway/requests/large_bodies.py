"""Large bodies are parsed one at a time, and each caller's take at most a hundredth of the event loop's time.

Eight megabytes of text are parsed in two milliseconds, as many brackets in thirteen: every stream waits meanwhile. Who
sends one after the other waits in between, and nobody else does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

LARGE_BYTES = 1024 * 1024
_PAUSES = 100  # for each second of parsing, before the same caller's next one
_LONGEST_PAUSE_S = 5.0

Parsed = TypeVar("Parsed")


@dataclass(slots=True)
class _Caller:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    next_at: float = 0.0  # loop time
    users: int = 0


class LargeBodies:
    """Shared by all requests of a gateway."""

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}
        self._one = asyncio.Lock()

    async def parsed(self, name: str, parse: Callable[[], Parsed]) -> Parsed:
        """What `parse` gives, when this caller is next; whoever has an event to pass on goes before and after."""
        loop = asyncio.get_running_loop()
        caller = self._callers.setdefault(name, _Caller())
        caller.users += 1
        try:
            async with caller.lock:
                await asyncio.sleep(max(0.0, caller.next_at - loop.time()))
                async with self._one:
                    await asyncio.sleep(0)
                    began_s = time.perf_counter()
                    try:
                        return parse()
                    finally:
                        took_s = time.perf_counter() - began_s
                        caller.next_at = loop.time() + min(_PAUSES * took_s, _LONGEST_PAUSE_S)
                        await asyncio.sleep(0)
        finally:
            caller.users -= 1
            if not caller.users:
                self._forget(loop.time())

    def _forget(self, now: float) -> None:
        """Drop callers who wait for nothing any more: there are as many as there are pauses under way."""
        for name in [name for name, one in self._callers.items() if not one.users and one.next_at <= now]:
            del self._callers[name]
