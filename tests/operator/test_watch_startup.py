"""kopf's start with many objects: each waits for the last one, and none is woken before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from kopf._cogs.aiokits.aiotoggles import ToggleSet

from topmast_operator.watch.startup import wake_once

OBJECTS = 500


def test_the_work_of_a_start_grows_with_the_number_of_objects_and_not_with_its_square() -> None:
    looks = 0

    def all_on(states: Iterable[bool]) -> bool:
        nonlocal looks
        looks += 1
        return all(states)

    async def start() -> None:
        indexed = ToggleSet(all_on)
        toggles = [await indexed.make_toggle() for _ in range(OBJECTS)]
        served = 0

        async def one(toggle: object) -> None:
            nonlocal served
            await indexed.drop_toggle(toggle)  # type: ignore[arg-type]
            await indexed.wait_for(True)
            assert len(indexed) == 0, "it went on before all were indexed"
            served += 1

        await asyncio.wait_for(asyncio.gather(*map(one, toggles)), 10)
        assert served == OBJECTS

    wake_once()
    asyncio.run(start())
    assert looks < 10 * OBJECTS


def test_who_waits_for_either_state_is_told() -> None:
    async def pause() -> None:
        paused = ToggleSet(any)
        toggle = await paused.make_toggle(True)
        waits = asyncio.create_task(paused.wait_for(False))
        await asyncio.sleep(0)
        await paused.drop_toggle(toggle)
        await asyncio.wait_for(waits, 10)
        waits = asyncio.create_task(paused.wait_for(True))
        await asyncio.sleep(0)
        await paused.make_toggle(True)
        await asyncio.wait_for(waits, 10)

    wake_once()
    asyncio.run(pause())
