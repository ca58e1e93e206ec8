"""kopf's start in linear time.

While kopf fills its indices, every object that is in them waits for the last one, and each that is added wakes all that
wait: wake-ups by the square of the number of objects. Here they are woken when there is something to see (kopf 1.45,
`_cogs/aiokits/aiotoggles.py`).
"""

from typing import Any

from kopf._cogs.aiokits import aiotoggles


def wake_once() -> None:
    """For all sets of toggles of this process, from now on."""
    aiotoggles.ToggleSet.make_toggle = _make_toggle
    aiotoggles.ToggleSet.drop_toggle = _drop_toggle


async def _make_toggle(self: Any, value: bool = False, *, name: str | None = None) -> Any:
    toggle = aiotoggles.Toggle(value, name=name, condition=self._condition)
    async with self._condition:
        was_on = self.is_on()
        self._toggles.add(toggle)
        _tell(self, was_on)
    return toggle


async def _drop_toggle(self: Any, toggle: Any) -> None:
    async with self._condition:
        was_on = self.is_on()
        self._toggles.discard(toggle)
        _tell(self, was_on)


def _tell(toggles: Any, was_on: bool) -> None:
    """Whoever waits, waits for the set to turn on or off, and for nothing else."""
    if toggles.is_on() != was_on:
        toggles._condition.notify_all()
