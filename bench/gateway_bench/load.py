"""The loads that scenarios are made of, and what is counted while one of them runs. Every way is asked alike."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from serving_bench.figures import percentile

from gateway_bench.client import Connection, Target, connect
from gateway_bench.front import Front

PACE_S: Final = 0.02  # 50 tokens a second and stream
FAST_PACE_S: Final = 0.005
_PAUSE_S: Final = 0.1
_SETTLE_S: Final = 0.5
_EVENTS: Final = 25
_QUICK_SCALE, _QUICK_EVENTS = 0.1, 5
_LONG: Final = 30_000  # at the fast pace 150 s; the client leaves before

Way = TypeVar("Way")


@dataclass
class Seen:
    """What the clients of one way saw, in nanoseconds."""

    first: list[int] = field(default_factory=list)
    events: list[int] = field(default_factory=list)

    def in_ms(self) -> dict[str, dict[str, float]]:
        return {
            "first_event": shares([at / 1e6 for at in self.first]),
            "event": shares([at / 1e6 for at in self.events]),
        }


@dataclass(frozen=True)
class Carried:
    """Events that came to clients in a while, and what the front spent on them."""

    events: int
    reads: int
    cpu_s: float
    passed_s: float

    @classmethod
    def all_of(cls, several: Sequence[Carried]) -> Carried:
        """Several whiles as one."""
        counts = ((each.events, each.reads, each.cpu_s, each.passed_s) for each in several)
        events, reads, cpu_s, passed_s = map(sum, zip(*counts, strict=True))
        return cls(int(events), int(reads), cpu_s, passed_s)

    @property
    def us_per_event(self) -> float:
        return self.cpu_s / self.events * 1e6

    def figures(self) -> dict[str, float]:
        return {
            "events_per_s": round(self.events / self.passed_s),
            "events_per_read": round(self.events / self.reads, 2),  # above 1 several came at once: the front was late
            "cpu_share": round(self.cpu_s / self.passed_s, 3),
            "us_per_event": round(self.us_per_event, 1),
        }


@dataclass(frozen=True)
class Answered:
    """Requests that were answered in a while, and what the front spent on them."""

    requests: int
    cpu_s: float
    passed_s: float

    @property
    def us_per_request(self) -> float:
        return self.cpu_s / self.requests * 1e6


@dataclass(frozen=True)
class Small:
    """Between two events of a stream, from the responder's write of an event to its read, and streams gone wrong."""

    gaps_ms: list[float]
    latencies_ms: list[float]
    refused: int


def shares(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    return {f"p{percent}": round(percentile(values, percent), digits) for percent in (50, 99)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Of the ratios of one run, each from a pair of neighbours in time."""
    middle = statistics.median(values)
    return {"median": round(middle, 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def alternating(ways: Sequence[Way], turns: int) -> Iterator[Way]:
    """All of the ways in each turn, each turn in the other order: what drifts then favours nobody."""
    for turn in range(turns):
        yield from ways if turn % 2 else reversed(ways)


def events_of_an_answer(scale: float, streams: int) -> int:
    """Fewer where it only has to work and there are streams enough for a percentile."""
    return _EVENTS if scale > _QUICK_SCALE or streams == 1 else _QUICK_EVENTS


async def ask_in_turns(
    targets: Sequence[Target], streams: int, requests: int, events: int, seen: Seen, *, in_step: bool = False
) -> None:
    """Closed-loop clients, each with so many requests; `in_step` they all get their events in the same instant."""
    targets = [targets[number % len(targets)] for number in range(streams)]
    clients = (_client(each, requests, events, seen, 0 if in_step else at) for at, each in enumerate(targets))
    await asyncio.gather(*clients)


async def _client(target: Target, requests: int, events: int, seen: Seen, step: int) -> None:
    """Requests one after the other on one connection."""
    connection = await connect(target, keep=True)
    request = target.request(events, PACE_S, step)
    for turn in range(requests + 1):
        # An answer ends with a tick; the next request must not meet everybody else's events for that reason alone.
        await asyncio.sleep(random.random() * _PAUSE_S)
        connection.reset()
        sent_ns = time.monotonic_ns()
        connection.transport.write(request)
        await connection.done
        latencies_ns = connection.latencies_ns()
        if len(latencies_ns) != events:
            raise RuntimeError(f"an answer had {len(latencies_ns)} events instead of {events}: {connection.parts}")
        if turn:  # the first one warms connections and code
            seen.first.append(connection.first_event_ns() - sent_ns)
            seen.events += latencies_ns[1:]
    connection.transport.abort()


async def carry(front: Front, streams: int, pace_s: float, seconds: float) -> Carried:
    """Streams that go on for so long; they are open, and the first events are past, when the counting begins.

    On a machine that stands still meanwhile it takes longer: until at least one event of each stream has come.
    """
    connections = await opened(front, streams, _LONG, pace_s)
    await asyncio.sleep(min(_SETTLE_S, seconds))
    before, cpu_s, at_s = _count(connections), front.cpu_s(), time.monotonic()
    events = reads = 0
    async with asyncio.timeout(60):
        while events < streams:
            await asyncio.sleep(seconds)
            events, reads = (after - earlier for after, earlier in zip(_count(connections), before, strict=True))
    found = Carried(events, reads, front.cpu_s() - cpu_s, time.monotonic() - at_s)
    closed(connections)
    return found


async def answer(front: Front, clients: int, seconds: float) -> Answered:
    """Streams of one event, each as soon as the one before it has ended: what a request costs beside its events."""
    loop = asyncio.get_running_loop()

    async def ask(connection: Connection, request: bytes, until_s: float) -> int:
        number = 0
        while loop.time() < until_s:
            connection.reset()
            connection.transport.write(request)
            await connection.done
            if connection.status != b"200":
                raise RuntimeError(f"a request was answered with status {connection.status!r}")
            number += 1
        return number

    connections = [await connect(front.way(number), keep=False) for number in range(clients)]
    asks = [(each, front.way(number).request(1, PACE_S)) for number, each in enumerate(connections)]
    await asyncio.gather(*(ask(*each, loop.time() + seconds / 6) for each in asks))  # warm
    cpu_s, at_s = front.cpu_s(), time.monotonic()
    done = sum(await asyncio.gather(*(ask(*each, loop.time() + seconds) for each in asks)))
    found = Answered(done, front.cpu_s() - cpu_s, time.monotonic() - at_s)
    closed(connections)
    return found


async def small_streams(front: Front, streams: int, goes_on: Callable[[], bool]) -> Small:
    """New streams again and again, each of a second, so that new requests are tried, too."""
    found = Small([], [], 0)
    refusals = 0

    async def client(target: Target, step: int) -> None:
        nonlocal refusals
        while goes_on():
            connection = await connect(target, keep=True)
            connection.transport.write(target.request(50, PACE_S, step))
            await connection.done
            times = [at_ns / 1e6 for at_ns, data in connection.parts for _ in range(data.count(b"data: {"))]
            if connection.status != b"200" or len(times) < 50:
                refusals += 1
            found.gaps_ms.extend(after - before for before, after in itertools.pairwise(times))
            found.latencies_ms.extend(latency_ns / 1e6 for latency_ns in connection.latencies_ns())
            connection.transport.abort()

    await asyncio.gather(*(client(front.way(number), number) for number in range(streams)))
    return Small(found.gaps_ms, found.latencies_ms, refusals)


async def opened(front: Front, streams: int, events: int, pace_s: float) -> list[Connection]:
    """Streams through the front whose first event has come."""
    connections = []
    for number in range(streams):
        connection = await connect(front.way(number), keep=False)
        connection.transport.write(front.way(number).request(events, pace_s))
        connections.append(connection)
    async with asyncio.timeout(60):
        while not all(connection.events for connection in connections):
            ended = [connection for connection in connections if connection.done.done()]
            if ended:
                raise RuntimeError(f"{len(ended)} of {streams} streams ended at once, status {ended[0].status!r}")
            await asyncio.sleep(0.05)
    return connections


def closed(connections: Sequence[Connection]) -> None:
    for connection in connections:
        connection.transport.abort()


def _count(connections: Sequence[Connection]) -> tuple[int, int]:
    return sum(each.events for each in connections), sum(each.reads for each in connections)
