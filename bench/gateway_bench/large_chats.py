"""A client with long conversations, one request after the other, in a process of its own: writing them stops nobody.

It says what it saw as a line of JSON: milliseconds from the request to the first event by size, and how many failed.

    python -m gateway_bench.large_chats HOST PORT MODEL KEY SECONDS
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any, Final

import uvloop

from gateway_bench.client import Connection, Target, connect

SIZES_KIB: Final = (128, 1024, 7680)
_EVENTS, _PACE_S = 5, 0.02
_TURN_WORDS: Final = 350
# The gateway lets a caller's bodies of 1 MiB and more wait a hundred times as long as the last one took it to parse,
# 0.2 s for the largest one here. That is a choice, and is not measured: this rest is longer.
_REST_S: Final = 0.5
_TEXT: Final = (
    "the gateway passes each event on as soon as it has come, and an answer that was begun is never begun again: what "
    'the engine has told is kept until the client has it. "Why?" she asked — für alle Fälle, said the other; 42 % of '
    "it, or 3.14 at most. def carry(event): return event\n\nThen came the second part, and nobody was surprised"
)
_WORDS: Final = _TEXT.split(" ")


def conversation(kib: int) -> list[dict[str, str]]:
    """Messages of about this size as JSON: prose with quotes, line breaks and letters that JSON escapes."""
    draw, left = random.Random(kib), kib * 1024 - 400
    messages: list[dict[str, str]] = []
    while left > 100:
        text = " ".join(draw.choices(_WORDS, k=_TURN_WORDS))[: left - 60]
        messages.append({"role": "assistant" if len(messages) % 2 else "user", "content": text})
        left -= len(json.dumps(messages[-1])) + 2
    return messages


async def run(target: Target, seconds: float) -> dict[str, Any]:
    """Each size at least once."""
    requests = {kib: target.chat(conversation(kib), _EVENTS, _PACE_S) for kib in SIZES_KIB}
    connection = await connect(target, keep=True)
    print("begins", flush=True)
    first: dict[int, list[float]] = {kib: [] for kib in SIZES_KIB}
    asked = failed = 0
    until_s = time.monotonic() + seconds
    while not asked or time.monotonic() < until_s:
        for kib, request in requests.items():
            asked += 1
            first_ms = await _ask(connection, request)
            if first_ms is None:
                failed += 1
                connection = await connect(target, keep=True)
            else:
                first[kib].append(first_ms)
            await asyncio.sleep(min(_REST_S, seconds / 10))
    return {"first_event_ms": first, "asked": asked, "failed": failed}


async def _ask(connection: Connection, request: bytes) -> float | None:
    """Milliseconds to the first event; None where the answer is not whole."""
    connection.reset()
    sent_ns = time.monotonic_ns()
    connection.transport.write(request)
    await connection.done
    whole = connection.status == b"200" and len(connection.latencies_ns()) == _EVENTS
    return (connection.first_event_ns() - sent_ns) / 1e6 if whole else None


if __name__ == "__main__":
    host, port, model, key, for_s = sys.argv[1:]
    print(json.dumps(uvloop.run(run(Target(host, int(port), model, key), float(for_s)))), flush=True)
