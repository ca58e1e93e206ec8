"""One caller's large bodies wait for each other, nobody else's wait for them, and nothing is kept."""

from __future__ import annotations

import asyncio
import time

import pytest

from topmast_gateway.requests.large_bodies import LargeBodies


def parse() -> float:
    """Takes a hundredth of a second of the loop, and says when it began."""
    began = time.monotonic()
    while time.monotonic() - began < 0.01:
        pass
    return began


async def test_a_callers_next_one_waits_a_hundred_times_as_long_as_the_last_one_took() -> None:
    bodies = LargeBodies()
    first, second = await asyncio.gather(bodies.parsed("mallory", parse), bodies.parsed("mallory", parse))
    assert second - first >= 0.9


async def test_another_caller_waits_for_one_of_them_at_most() -> None:
    bodies = LargeBodies()
    greedy = [asyncio.create_task(bodies.parsed("mallory", parse)) for _ in range(2)]
    await asyncio.sleep(0)
    alice = await bodies.parsed("alice", parse)
    assert alice < max(await asyncio.gather(*greedy))


async def test_what_fails_and_who_leaves_hold_nobody_up_and_are_forgotten() -> None:
    bodies = LargeBodies()

    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        await bodies.parsed("alice", fails)
    for number in range(50):
        await bodies.parsed(f"caller-{number}", lambda: None)
    await asyncio.sleep(0.05)
    await bodies.parsed("last", lambda: None)
    assert len(bodies._callers) <= 2
