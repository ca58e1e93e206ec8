"""What is measured: each scenario takes a running gateway and returns plain figures. Bars are elsewhere."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from serving_bench.figures import percentile

from gateway_bench.client import Connection, Target, connect, refused
from gateway_bench.front import Front, abused, pinned

_PACE_S: Final = 0.02  # 50 tokens a second and stream
_PAUSE_S: Final = 0.1
_FAST_PACE_S: Final = 0.005
_EVENTS: Final = 25
_LONG: Final = 2000  # at the fast pace 10 s; the client leaves before
_BODY_BYTES: Final = 10 * 1024 * 1024


@dataclass
class _Seen:
    """What the clients of one way saw, in nanoseconds."""

    first: list[int] = field(default_factory=list)
    events: list[int] = field(default_factory=list)

    def in_ms(self) -> dict[str, dict[str, float]]:
        return {
            name: {f"p{percent}": round(percentile(values, percent) / 1e6, 3) for percent in (50, 99)}
            for name, values in (("first_event", self.first), ("event", self.events))
        }


async def latency(front: Front, scale: float, streams: int, *, in_step: bool = False) -> dict[str, Any]:
    """The same closed-loop clients directly and through the gateway, alternating; the difference is the gateway's.

    `in_step`: all streams get their events in the same instant, else each at a time of its own.
    """
    seen = {"direct": _Seen(), "through": _Seen()}
    requests = max(1, round((320 if streams > 1 else 10) * scale / streams))  # of each stream in each round
    rounds = max(1, round(4 * scale))
    waited_s, began_s = front.waited_s(), time.monotonic()
    for number in range(rounds):
        for way in ("direct", "through") if number % 2 else ("through", "direct"):
            target = front.through if way == "through" else front.direct
            clients = (_client(target, requests, seen[way], 0 if in_step else at) for at in range(streams))
            await asyncio.gather(*clients)
    ways = {way: each.in_ms() for way, each in seen.items()}
    added = {
        kind: {share: round(ways["through"][kind][share] - ways["direct"][kind][share], 3) for share in ("p50", "p99")}
        for kind in ("first_event", "event")
    }
    waited = (front.waited_s() - waited_s) / (time.monotonic() - began_s)
    figures = {"streams": streams, "requests": requests * streams * rounds, "waited_share": round(waited, 4)}
    return {**figures, **ways, "added": added}


async def _client(target: Target, requests: int, seen: _Seen, step: int) -> None:
    """Requests one after the other on one connection."""
    connection = await connect(target, keep=True)
    request = target.request(_EVENTS, _PACE_S, step)
    for turn in range(requests + 1):
        # An answer ends with a tick; the next request must not meet everybody else's events for that reason alone.
        await asyncio.sleep(random.random() * _PAUSE_S)
        connection.reset()
        sent_ns = time.monotonic_ns()
        connection.transport.write(request)
        await connection.done
        latencies_ns = connection.latencies_ns()
        if len(latencies_ns) != _EVENTS:
            raise RuntimeError(f"an answer had {len(latencies_ns)} events instead of {_EVENTS}: {connection.parts}")
        if turn:  # the first one warms connections and code
            seen.first.append(connection.first_event_ns() - sent_ns)
            seen.events += latencies_ns[1:]
    connection.transport.abort()


async def throughput(front: Front, scale: float, streams: int = 64) -> dict[str, Any]:
    """More events than the gateway is asked to carry; what counts is its CPU time for those that came."""
    seconds = max(1.0, 6 * scale)
    with pinned(front) as alone:
        open_streams = await _open(front, streams, _LONG, _FAST_PACE_S)
        await asyncio.sleep(0.5)
        before, cpu_s, at_s = _count(open_streams), front.cpu_s(), time.monotonic()
        await asyncio.sleep(seconds)
        events, reads = (after - earlier for after, earlier in zip(_count(open_streams), before, strict=True))
        cpu_s, passed_s = front.cpu_s() - cpu_s, time.monotonic() - at_s
        _close(open_streams)
    return {
        "streams": streams,
        "offered_per_s": round(streams / _FAST_PACE_S),
        "events_per_s": round(events / passed_s),
        "events_per_read": round(events / reads, 2),  # above 1 the gateway was late and carried several at once
        "gateway_cpu_share": round(cpu_s / passed_s, 3),
        "events_per_cpu_s": round(events / cpu_s),
        "us_per_event": round(cpu_s / events * 1e6, 1),
        "pinned": alone,
    }


async def requests(front: Front, scale: float, clients: int = 8) -> dict[str, Any]:
    """Streams of one event, each as soon as the one before it has ended: what a request costs beside its events."""
    seconds = max(1.0, 6 * scale)
    loop = asyncio.get_running_loop()

    async def ask(connection: Connection, until_s: float) -> int:
        number = 0
        while loop.time() < until_s:
            connection.reset()
            connection.transport.write(front.through.request(1, _PACE_S))
            await connection.done
            if connection.status != b"200":
                raise RuntimeError(f"a request was answered with status {connection.status!r}")
            number += 1
        return number

    with pinned(front) as alone:
        connections = [await connect(front.through, keep=False) for _ in range(clients)]
        await asyncio.gather(*(ask(each, loop.time() + seconds / 6) for each in connections))  # warm
        cpu_s, at_s = front.cpu_s(), time.monotonic()
        done = sum(await asyncio.gather(*(ask(each, loop.time() + seconds) for each in connections)))
        cpu_s, passed_s = front.cpu_s() - cpu_s, time.monotonic() - at_s
        _close(connections)
    return {
        "clients": clients,
        "requests_per_s": round(done / passed_s),
        "us_per_request": round(cpu_s / done * 1e6),
        "pinned": alone,
    }


async def open_streams(front: Front, scale: float) -> dict[str, Any]:
    """Memory with many streams that all get events."""
    streams = max(20, round(1000 * scale))
    before_mib = front.rss_mib()
    connections = await _open(front, streams, 200, 0.5)
    await asyncio.sleep(2)
    alive = sum(connection.events > 1 and not connection.done.done() for connection in connections)
    rss_mib = front.rss_mib()
    _close(connections)
    return {
        "streams": streams,
        "alive": alive,
        "rss_mib_before": round(before_mib, 1),
        "rss_mib": round(rss_mib, 1),
        "kib_per_stream": round((rss_mib - before_mib) * 1024 / streams, 1),
    }


async def large_bodies(front: Front, scale: float) -> dict[str, Any]:
    """Bodies of 10 MB, five at a time; every one gets its 413 and none of them is in memory at any moment."""
    body, count = bytes(_BODY_BYTES), max(5, round(50 * scale / 5) * 5)
    for _ in range(4):  # buffers that the allocator keeps are no growth
        await asyncio.gather(*(refused(front.through, body) for _ in range(5)))
    front.forget_peak()
    before_mib = front.peak_mib()
    statuses: list[int] = []
    for _ in range(count // 5):
        statuses += await asyncio.gather(*(refused(front.through, body) for _ in range(5)))
    refusals = statuses.count(413)
    return {"bodies": count, "refused": refusals, "growth_mib": round(front.peak_mib() - before_mib, 2)}


async def abuse(front: Front, scale: float, streams: int = 32) -> dict[str, Any]:
    """Streams of one key, alone and then beside another one with every trick: the time between two of their events."""
    seconds = max(1.0, 10 * scale)
    with pinned(front):
        alone = await _gaps_ms(front, streams, seconds)
        front.forget_peak()
        with abused(front):
            await asyncio.sleep(min(3.0, seconds))  # until all of it is under way
            beside = await _gaps_ms(front, streams, seconds)
        peak_mib = front.peak_mib()
    ratio = beside.gaps["p99"] / alone.gaps["p99"]
    return {
        "streams": streams,
        "alone": alone.gaps,
        "beside": beside.gaps,
        "gap_p99_ratio": round(ratio, 2),
        "refused": alone.refused + beside.refused,
        "peak_mib": round(peak_mib, 1),
    }


@dataclass(frozen=True)
class _Gaps:
    """Between two events of a stream, in ms; and streams that were refused or ended early."""

    gaps: dict[str, float]
    refused: int


async def _gaps_ms(front: Front, streams: int, seconds: float) -> _Gaps:
    """New streams again and again, each of a second, so that new requests are tried, too."""
    gaps: list[float] = []
    refusals = 0
    until_s = time.monotonic() + seconds

    async def client() -> None:
        nonlocal refusals
        while time.monotonic() < until_s:
            connection = await connect(front.through, keep=True)
            connection.transport.write(front.through.request(50, _PACE_S))
            await connection.done
            times = [at_ns / 1e6 for at_ns, data in connection.parts for _ in range(data.count(b"data: {"))]
            if connection.status != b"200" or len(times) < 50:
                refusals += 1
            gaps.extend(after - before for before, after in itertools.pairwise(times))
            connection.transport.abort()

    await asyncio.gather(*(client() for _ in range(streams)))
    return _Gaps({f"p{percent}": round(percentile(gaps, percent), 2) for percent in (50, 99)}, refusals)


async def _open(front: Front, streams: int, events: int, pace_s: float) -> list[Connection]:
    """Streams through the gateway whose first event has come."""
    connections = []
    for _ in range(streams):
        connection = await connect(front.through, keep=False)
        connection.transport.write(front.through.request(events, pace_s))
        connections.append(connection)
    async with asyncio.timeout(60):
        while not all(connection.events for connection in connections):
            ended = [connection for connection in connections if connection.done.done()]
            if ended:
                raise RuntimeError(f"{len(ended)} of {streams} streams ended at once, status {ended[0].status!r}")
            await asyncio.sleep(0.05)
    return connections


def _count(connections: list[Connection]) -> tuple[int, int]:
    return sum(each.events for each in connections), sum(each.reads for each in connections)


def _close(connections: list[Connection]) -> None:
    for connection in connections:
        connection.transport.abort()


async def _latency_1(front: Front, scale: float) -> dict[str, Any]:
    return await latency(front, scale, 1)


async def _latency_32(front: Front, scale: float) -> dict[str, Any]:
    return await latency(front, scale, 32)


async def _burst_32(front: Front, scale: float) -> dict[str, Any]:
    return await latency(front, scale, 32, in_step=True)


SCENARIOS: dict[str, Callable[[Front, float], Awaitable[dict[str, Any]]]] = {
    "latency1": _latency_1,
    "latency32": _latency_32,
    "burst32": _burst_32,
    "throughput": throughput,
    "requests": requests,
    "streams": open_streams,
    "bodies": large_bodies,
    "abuse": abuse,
}
