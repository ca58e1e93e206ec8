"""Requests that arrive whether or not earlier ones have ended, each answer compared with an undisturbed one.

Arrivals are Poisson and seeded. The undisturbed answers are made beforehand, by the same client at one engine directly.
Who is told by an error that his gateway was killed asks again at another one, as SDKs do.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .answer import Answer
from .asks import Ask
from .client import Client, begin

_AT_ONCE = 8
_ASK_AGAIN_S = 0.5  # the first pause of OpenAI's SDKs


def undisturbed(base_url: str, model: str, asks: Sequence[Ask], key: str = "none") -> dict[int, Answer]:
    """The answers by the numbers of their requests. Any failure here is the test's own: it raises AssertionError."""

    async def run() -> dict[int, Answer]:
        answers = {ask.number: begin(ask) for ask in asks}
        free = asyncio.Semaphore(_AT_ONCE)

        async def one(ask: Ask) -> None:
            async with free:
                await client.ask(base_url, ask, answers[ask.number])

        async with Client(key, model) as client:
            await asyncio.gather(*(one(ask) for ask in asks))
        return answers

    answers = asyncio.run(run())
    for number, answer in answers.items():
        assert not answer.error and not answer.truncated, f"request {number} failed undisturbed: {answer}"
    return answers


@dataclass(frozen=True)
class Visit:
    """A request and what came of it. `interrupted`: its gateway was killed, and an error told so.

    `again` counts the visits before this one that were interrupted and led to it.
    """

    ask: Ask
    answer: Answer
    difference: str = ""
    interrupted: bool = False
    again: int = 0

    @property
    def fine(self) -> bool:
        """Whether the client has all of the answer, and the right one."""
        return not (self.answer.error or self.answer.truncated or self.difference)

    def __str__(self) -> str:
        fields = {name: value for name, value in self.ask.fields.items() if name not in ("messages", "prompt")}
        what = self.answer.error or self.difference or f"{len(self.answer.events_s)} events and no end"
        who = "SDK, " if self.ask.by_sdk else ""
        return f"{self.ask.path} {self.ask.number} ({who}{fields}): {what}"


@dataclass
class Absence:
    """A gateway is killed at some time after `from_s`, and serves again before `to_s`; of the monotonic clock."""

    from_s: float
    to_s: float = math.inf


@dataclass
class Log:
    """Every request that ended, in the order of their ends, and the answers that are still coming.

    `absences` of gateways are known by door.
    """

    ended: list[Visit] = field(default_factory=list)
    coming: list[Answer] = field(default_factory=list)
    absences: dict[str, list[Absence]] = field(default_factory=dict)

    def killed(self, door: str) -> None:
        """Say so before the gateway behind it is killed: what breaks there from now on is no fault of a gateway."""
        self.absences.setdefault(door, []).append(Absence(time.monotonic()))

    def returned(self, door: str) -> None:
        """It serves again."""
        self.absences[door][-1].to_s = time.monotonic()

    def absent(self, door: str, from_s: float, to_s: float) -> bool:
        """Whether its gateway was killed or away at some time between these two."""
        return any(each.from_s <= to_s and from_s <= each.to_s for each in self.absences.get(door, ()))

    @property
    def errors(self) -> list[Visit]:
        return [visit for visit in self.ended if visit.answer.error and not visit.interrupted]

    @property
    def interrupted(self) -> list[Visit]:
        return [visit for visit in self.ended if visit.interrupted]

    @property
    def retried_fine(self) -> int:
        """How many of the interrupted ones led to a whole and right answer."""
        return sum(visit.again for visit in self.ended if visit.fine)

    @property
    def truncated(self) -> list[Visit]:
        return [visit for visit in self.ended if visit.answer.truncated]

    @property
    def different(self) -> list[Visit]:
        return [visit for visit in self.ended if visit.difference]

    @property
    def streaming(self) -> int:
        """Streams that have begun and not ended."""
        return sum(answer.streams and bool(answer.events_s) for answer in list(self.coming))

    def longest_gaps_s(self) -> list[float]:
        """Each stream's longest time between two events, ascending."""
        return sorted(visit.answer.longest_gap_s for visit in self.ended if visit.ask.streams)

    def ttfts_s(self) -> list[float]:
        """Each stream's time to its first event, ascending."""
        return sorted(visit.answer.ttft_s for visit in self.ended if visit.ask.streams and visit.answer.events_s)

    def report(self) -> dict[str, Any]:
        """Counts, and p50, p99 and max of gaps and of times to a first event, in seconds."""
        failed = {name: len(getattr(self, name)) for name in ("errors", "truncated", "different")}
        again = {"interrupted": len(self.interrupted), "retried_fine": self.retried_fine} if self.absences else {}
        gaps, ttfts = self.longest_gaps_s(), self.ttfts_s()
        return {"ended": len(self.ended), **again, **failed, "longest_gap_s": _shares(gaps), "ttft_s": _shares(ttfts)}

    def assert_clean(self, at_least: int = 1) -> None:
        """Nothing failed, nothing was cut, every answer is the undisturbed one, and there were enough of them."""
        for name in ("errors", "truncated", "different"):
            found = getattr(self, name)
            told = "\n".join(map(str, found[:5]))
            assert not found, f"{name}: {len(found)} of {len(self.ended)} answers\n{told}"
        assert len(self.ended) >= at_least, f"only {len(self.ended)} requests ended; the test shows nothing"


class OpenLoop:
    """`with OpenLoop(doors, key, model, asks, expected, per_s=4) as log: ...` keeps requests coming during the block.

    Those of `first` are all sent at its start. `doors` are base URLs that end in /v1; each request takes one at random.
    The list may be changed meanwhile, as a Service's endpoints are.
    """

    def __init__(
        self,
        doors: list[str],
        key: str,
        model: str,
        asks: Sequence[Ask],
        expected: Mapping[int, Answer],
        *,
        per_s: float,
        seed: int = 0,
        first: Sequence[Ask] = (),
    ) -> None:
        self._doors, self._key, self._model = doors, key, model
        self._asks, self._expected, self._per_s, self._first = asks, expected, per_s, first
        self._draw = random.Random(seed)
        self._told = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="open loop")
        self.log = Log()

    def __enter__(self) -> Log:
        self._thread.start()
        return self.log

    def __exit__(self, *_: object) -> None:
        self._told.set()
        self._thread.join(timeout=180)
        assert not self._thread.is_alive(), "a request hangs: the traffic did not end within 180 s"

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        async with Client(self._key, self._model) as client, asyncio.TaskGroup() as group:
            for ask in self._first:
                group.create_task(self._visit(client, ask))
            due_s = loop.time()
            while not self._told.is_set():
                # A silence of many mean gaps would only make tests longer.
                due_s += min(self._draw.expovariate(self._per_s), 3 / self._per_s)
                await asyncio.sleep(due_s - loop.time())
                group.create_task(self._visit(client, self._draw.choice(self._asks)))

    async def _visit(self, client: Client, ask: Ask) -> None:
        visit = await self._once(client, ask, self._draw.choice(self._doors))
        while visit.interrupted:
            await asyncio.sleep(_ASK_AGAIN_S)
            others = [door for door in self._doors if door != visit.answer.door]
            visit = await self._once(client, ask, self._draw.choice(others or self._doors), visit.again + 1)

    async def _once(self, client: Client, ask: Ask, door: str, again: int = 0) -> Visit:
        answer, log = begin(ask), self.log
        log.coming.append(answer)
        await client.ask(door, ask, answer)
        log.coming.remove(answer)
        interrupted = answer.broken and log.absent(door, answer.sent_s, time.monotonic())
        difference = "" if answer.error or answer.truncated else answer.difference(self._expected[ask.number])
        visit = Visit(ask, answer, difference, interrupted, again)
        log.ended.append(visit)
        return visit


def _shares(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    at = {"p50": len(values) // 2, "p99": min(len(values) - 1, len(values) * 99 // 100), "max": -1}
    return {name: round(values[place], 3) for name, place in at.items()}
