"""Large bodies that are accepted, beside small streams of another key: who waits for whom, and what memory it takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from gateway_bench import front as fronts
from gateway_bench import responder
from gateway_bench.client import Target
from gateway_bench.front import LARGE, Front, pinned
from gateway_bench.large_chats import SIZES_KIB
from gateway_bench.load import Small, alternating, shares, small_streams


async def large(front: Front, scale: float, streams: int = 32) -> dict[str, Any]:
    """Small streams alone, and as long beside another key's long conversations of three sizes, alternating."""
    turns, seconds = max(1, round(2 * scale)), max(0.5, 15 * scale)
    small: dict[str, list[Small]] = {"alone": [], "beside": []}
    chats: list[dict[str, Any]] = []
    peaks_mib = []
    accepted, accepted_bytes = await _accepted(front.direct)
    before_mib = front.rss_mib()
    for way in alternating(tuple(small), turns):
        with pinned(front):
            if way == "alone":
                until_s = time.monotonic() + seconds
                small[way].append(await small_streams(front, streams, lambda: time.monotonic() < until_s))  # noqa: B023
            else:
                front.forget_peak()
                with _chats(front.through, seconds) as client:
                    small[way].append(await small_streams(front, streams, lambda: client.poll() is None))
                    chats.append(json.loads(client.communicate()[0]))
                peaks_mib.append(front.peak_mib())
    now, now_bytes = await _accepted(front.direct)
    found = {way: _figures(each) for way, each in small.items()}
    return {
        "streams": streams,
        **found,
        "event_p99_ratio": round(found["beside"]["event"]["p99"] / found["alone"]["event"]["p99"], 2),
        "gap_p99_ratio": round(found["beside"]["gap"]["p99"] / found["alone"]["gap"]["p99"], 2),
        "first_event": {f"{kib}_kib": shares(seen) for kib in SIZES_KIB if (seen := _of_size(chats, kib))},
        "large": sum(chat["asked"] for chat in chats),
        "accepted": now - accepted,
        "accepted_mib": round((now_bytes - accepted_bytes) / 2**20, 1),
        "failed": sum(chat["failed"] for chat in chats),
        "refused": sum(each.refused for several in small.values() for each in several),
        "rss_mib_before": round(before_mib, 1),
        "peak_mib": round(max(peaks_mib), 1),
    }


def _figures(several: list[Small]) -> dict[str, dict[str, float]]:
    """Between two events of a small stream, and from an event's write at the responder to its read here, in ms."""
    return {
        "gap": shares([gap for each in several for gap in each.gaps_ms]),
        "event": shares([latency for each in several for latency in each.latencies_ms]),
    }


def _of_size(chats: list[dict[str, Any]], kib: int) -> list[float]:
    return [first_ms for chat in chats for first_ms in chat["first_event_ms"][str(kib)]]


@contextlib.contextmanager
def _chats(target: Target, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """The client with long conversations, which ends by itself."""
    where = (target.host, str(target.port), target.model, LARGE, str(seconds))
    command = [sys.executable, "-m", "gateway_bench.large_chats", *where]
    client = fronts.started(command, b"begins\n", "the client with long conversations does not begin")
    try:
        yield client
    finally:
        client.kill()
        client.wait()


async def _accepted(direct: Target) -> tuple[int, int]:
    """Large bodies that the responder has taken so far, and their bytes."""
    reader, writer = await asyncio.open_connection(direct.host, direct.port)
    writer.write(responder.COUNTED + b" HTTP/1.1\r\nhost: bench\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    text = await reader.readexactly(int(head.partition(b"content-length: ")[2]))
    writer.close()
    count, size = text.split()
    return int(count), int(size)
