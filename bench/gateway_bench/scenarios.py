"""What is measured: each scenario takes a running gateway and returns plain figures. Bars are elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway_bench import variants
from gateway_bench.client import refused
from gateway_bench.front import Front, abused, pinned, relayed
from gateway_bench.large import large
from gateway_bench.load import (
    FAST_PACE_S,
    Carried,
    Seen,
    alternating,
    answer,
    ask_in_turns,
    carry,
    closed,
    events_of_an_answer,
    opened,
    shares,
    small_streams,
    spread,
)
from gateway_bench.processes import processes

_BUSY_PACE_S: Final = 0.002
_BODY_BYTES: Final = 10 * 1024 * 1024


async def latency(front: Front, scale: float, streams: int, *, in_step: bool = False) -> dict[str, Any]:
    """The same closed-loop clients directly and through the gateway, alternating; the difference is the gateway's.

    `in_step`: all streams get their events in the same instant, else each at a time of its own.
    """
    seen = {"direct": Seen(), "through": Seen()}
    requests = max(1, round((320 if streams > 1 else 10) * scale / streams))  # of each stream in each round
    rounds, events = max(1, round(4 * scale)), events_of_an_answer(scale, streams)
    waited_s, began_s = front.waited_s(), time.monotonic()
    for way in alternating(("direct", "through"), rounds):
        targets = front.ways if way == "through" else (front.direct,)
        await ask_in_turns(targets, streams, requests, events, seen[way], in_step=in_step)
    ways = {way: each.in_ms() for way, each in seen.items()}
    added = {
        kind: {share: round(ways["through"][kind][share] - ways["direct"][kind][share], 3) for share in ("p50", "p99")}
        for kind in ("first_event", "event")
    }
    waited = (front.waited_s() - waited_s) / (time.monotonic() - began_s)
    figures = {"streams": streams, "requests": requests * streams * rounds, "waited_share": round(waited, 4)}
    return {**figures, **ways, "added": added}


async def throughput(front: Front, scale: float, streams: int = 64) -> dict[str, Any]:
    """The gateway's CPU time per event, and that of a relay which reads nothing, alternating at the same offered load.

    The bar is judged at the even load, where both have a core half idle and carry one event at a time. At the busy one
    the gateway is late: it then finds several events in one read and shares the cost of a read and a write among them,
    which the faster relay, with one event each time, does not. So a front would look better there for being slower.
    Reads are counted at the client: about one event in each says that nobody on the way was late.
    """
    turns, seconds = max(1, round(4 * scale)), max(0.2, 3 * scale)
    with relayed(front) as relay:
        even, alone = await _beside_the_relay(front, relay, (turns, streams, FAST_PACE_S, seconds))
        busy, _ = await _beside_the_relay(front, relay, (turns, streams, _BUSY_PACE_S, seconds))
    gateway = even.pop("gateway")
    return {
        "streams": streams,
        **{name: gateway[name] for name in ("offered_per_s", "events_per_s", "events_per_read", "us_per_event")},
        "gateway_cpu_share": gateway["cpu_share"],
        "events_per_cpu_s": round(1e6 / gateway["us_per_event"]),
        **even,
        "busy": busy,
        "pinned": alone,
    }


async def _beside_the_relay(
    front: Front, relay: Front, load: tuple[int, int, float, float]
) -> tuple[dict[str, Any], bool]:
    """Figures of both at a load of so many turns, streams, pace and seconds, and their ratio turn by turn."""
    turns, streams, pace_s, seconds = load
    found: dict[str, list[Carried]] = {"gateway": [], "relay": []}
    pins = []
    for way in alternating(tuple(found), turns):
        this = front if way == "gateway" else relay
        with pinned(this) as alone:
            pins.append(alone)
            found[way].append(await carry(this, streams, pace_s, seconds))
    ratios = [ours.us_per_event / raw.us_per_event for ours, raw in zip(*found.values(), strict=True)]
    offered = {"offered_per_s": round(streams / pace_s)}
    figures = {way: {**offered, **Carried.all_of(each).figures()} for way, each in found.items()}
    return {**figures, "ratio": spread(ratios)}, all(pins)


async def requests(front: Front, scale: float, clients: int = 8) -> dict[str, Any]:
    """What a request costs the gateway beside its events."""
    with pinned(front) as alone:
        answered = await answer(front, clients, max(0.2, 6 * scale))
    return {
        "clients": clients,
        "requests_per_s": round(answered.requests / answered.passed_s),
        "us_per_request": round(answered.us_per_request),
        "pinned": alone,
    }


async def open_streams(front: Front, scale: float) -> dict[str, Any]:
    """Memory with many streams that all get events."""
    streams = max(20, round(1000 * scale))
    before_mib = front.rss_mib()
    connections = await opened(front, streams, 200, 0.5)
    await asyncio.sleep(2)
    alive = sum(connection.events > 1 and not connection.done.done() for connection in connections)
    rss_mib = front.rss_mib()
    closed(connections)
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
    seconds = max(0.5, 10 * scale)
    with pinned(front):
        alone = await small_streams(front, streams, _for(seconds))
        front.forget_peak()
        with abused(front):
            await asyncio.sleep(min(3.0, seconds))  # until all of it is under way
            beside = await small_streams(front, streams, _for(seconds))
        peak_mib = front.peak_mib()
    gaps = {"alone": shares(alone.gaps_ms, 2), "beside": shares(beside.gaps_ms, 2)}
    return {
        "streams": streams,
        **gaps,
        "gap_p99_ratio": round(gaps["beside"]["p99"] / gaps["alone"]["p99"], 2),
        "refused": alone.refused + beside.refused,
        "peak_mib": round(peak_mib, 1),
    }


def _for(seconds: float) -> Callable[[], bool]:
    """Whether they are not over yet."""
    until_s = time.monotonic() + seconds
    return lambda: time.monotonic() < until_s


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
    "large": large,
    **{name: variants.scenario(name) for name in variants.VARIANTS},
    "processes": processes,
}
