"""Silence is judged by what the loop could have heard: a pause of the gateway itself is nobody's silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from topmast_gateway.upstream.idle_timer import IdleTimer


@asynccontextmanager
async def idle_timeout(limit_s: float) -> AsyncIterator[IdleTimer]:
    """TimeoutError in the block when the timer has passed."""
    async with asyncio.timeout(None) as clock:
        timer = IdleTimer(lambda: clock.reschedule(0))
        timer.start(limit_s)
        yield timer
        timer.stop()


async def test_silence_ends_the_block() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with idle_timeout(0.3):
            await asyncio.sleep(60)
    assert time.monotonic() - started >= 0.3


async def test_what_comes_moves_the_end() -> None:
    async with idle_timeout(0.4) as idle:
        for _ in range(8):
            await asyncio.sleep(0.1)
            idle.reset()


async def test_a_stopped_one_ends_nothing() -> None:
    async with idle_timeout(0.1) as idle:
        idle.stop()
        await asyncio.sleep(0.3)


async def test_a_pause_of_this_process_is_not_the_engines_silence() -> None:
    """Every stream of a gateway that stood still for longer than the limit was moved to another pod."""
    reader, writer = await _pipe()
    async with idle_timeout(0.5) as idle:
        await asyncio.sleep(0.1)
        writer.write(b"x")  # it is there all the time, and nobody can look
        stand_still(1.5)
        assert await reader.read(1) == b"x"
        idle.reset()
        await asyncio.sleep(0.2)
    writer.close()


async def test_real_silence_is_noticed_also_after_a_pause() -> None:
    with pytest.raises(TimeoutError):
        async with idle_timeout(0.5):
            await asyncio.sleep(0.05)
            stand_still(1.0)
            await asyncio.sleep(60)


def stand_still(seconds: float) -> None:
    """As a process does that gets no processor."""
    time.sleep(seconds)


async def _pipe() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *ends: accepted.put_nowait(ends), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    reader, _ = await accepted.get()
    server.close()
    return reader, writer
