"""One key with every trick that we know beside well-behaved streams: a process of its own, at the lowest priority.

It has a valid key and does what it can with it at once. What the others notice is measured in scenarios.py.

    python -m gateway_bench.abuse HOST PORT MODEL KEY
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import uvloop

from gateway_bench.client import Target

_BODY_BYTES: Final = 8 * 1024 * 1024 - 1024
_IDLE: Final = 64
_PARTS: Final = (b"[],", b"{},", b'{"a":1},', b'{"role":"user","content":[0]},')
_COMPLAINTS: Final = (ConnectionError, asyncio.IncompleteReadError, TimeoutError, OSError)


class Abuser:
    """Each method is a trick; all of them run for ever, side by side."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._wrong = itertools.count()

    async def bodies_that_do_not_come(self) -> None:
        """Announced with eight megabytes, or in chunks, and then nothing."""
        for framing in itertools.cycle(("content-length: 8388608", "transfer-encoding: chunked")):
            held = [await self._opened(framing) for _ in range(_IDLE)]
            await asyncio.sleep(2)
            for writer in held:
                writer.close()

    async def large_bodies(self) -> None:
        """As large as may be, and hard to read."""
        for part in itertools.cycle(_PARTS):
            inside = part * (_BODY_BYTES // len(part))
            await self._post(b'{"model":"%b","max_tokens":1,"messages":[%b0]}' % (self._target.model.encode(), inside))

    async def wrong_keys(self) -> None:
        """One after the other."""
        while True:
            await self._post(b"{}", key=f"tm-{next(self._wrong)}")

    async def unknown_models(self) -> None:
        """Names that nobody has."""
        while True:
            await self._post(b'{"model":"nobody/has-this-%d"}' % next(self._wrong))

    async def large_heads(self) -> None:
        """Just below the bound, and above it."""
        for size in itertools.cycle((30_000, 40_000)):
            await self._post(b"{}", f"x-filler: {'y' * size}")

    async def silent_connections(self) -> None:
        """Opened, and not a word."""
        while True:
            held = []
            for _ in range(500):
                with contextlib.suppress(*_COMPLAINTS):
                    held.append((await asyncio.open_connection(self._target.host, self._target.port))[1])
            await asyncio.sleep(2)
            for writer in held:
                writer.close()

    async def streams_that_are_left(self) -> None:
        """Asked for, and left at their first event."""
        while True:
            with contextlib.suppress(*_COMPLAINTS):
                reader, writer = await asyncio.open_connection(self._target.host, self._target.port)
                writer.write(self._target.request(100, 0.02))
                await asyncio.wait_for(reader.readuntil(b"data: "), 5)
                writer.close()
            await asyncio.sleep(0.01)

    async def run(self) -> None:
        """Until it is killed."""
        tricks: tuple[Callable[[], Awaitable[None]], ...] = (
            self.bodies_that_do_not_come, self.large_bodies, self.large_bodies, self.wrong_keys, self.unknown_models,
            self.large_heads, self.silent_connections, self.streams_that_are_left, self.streams_that_are_left,
        )  # fmt: skip
        await asyncio.gather(*(trick() for trick in tricks))

    async def _opened(self, framing: str) -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(self._target.host, self._target.port)
        writer.write(self._target.head(framing))
        return writer

    async def _post(self, body: bytes, *fields: str, key: str = "") -> None:
        target = replace(self._target, key=key or self._target.key)
        with contextlib.suppress(*_COMPLAINTS):
            reader, writer = await asyncio.open_connection(target.host, target.port)
            writer.write(target.post(body, "connection: close", *fields))
            await asyncio.wait_for(reader.read(), 10)
            writer.close()


if __name__ == "__main__":
    os.nice(19)
    host, port, model, its_key = sys.argv[1:]
    abuser = Abuser(Target(host, int(port), model, its_key))
    print("begins", flush=True)
    uvloop.run(abuser.run())
