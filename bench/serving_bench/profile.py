"""Where the time of one and of 32 streams goes: the engine's own account of its steps, and who used the cores."""

from __future__ import annotations

import re
import time
from typing import Any, Final

from serving_bench.load import asks, closed_loop
from serving_bench.process import Server, get
from serving_bench.scenario import Scale, Scenario, warm_up

_LOADS: Final = ((1, 16), (32, 96))  # clients and requests
_PART: Final = re.compile(rb'^topmast_step_seconds_total\{.*part="(\w+)".*\} (\S+)$', re.MULTILINE)


async def _profile(server: Server, scale: Scale) -> dict[str, Any]:
    await warm_up(server)
    return {"profile": [await _load(server, scale, *load) for load in _LOADS]}


async def _load(server: Server, scale: Scale, clients: int, requests: int) -> dict[str, float]:
    """Seconds, by part of the engine's steps and by process."""
    work = asks(scale.count(requests, least=4), scale.tokens(128), scale.tokens(64), scale.seed + clients)
    before, began_s = await _account(server), time.monotonic()
    answers = await closed_loop(server.endpoint, work, clients)
    wall_s, after = time.monotonic() - began_s, await _account(server)
    spent = {name: round(after[name] - before[name], 3) for name in after}
    outside_s = wall_s - sum(after[name] - before[name] for name in after if not name.endswith("CPU"))
    tokens = sum(answer.output_tokens for answer in answers)
    return {"clients": clients, "tokens": tokens, "wall": round(wall_s, 3), **spent, "outside": round(outside_s, 3)}


async def _account(server: Server) -> dict[str, float]:
    _, body = await get(server.endpoint.port, "/metrics")
    parts = {name.decode(): float(seconds) for name, seconds in _PART.findall(body)}
    api_s = server.cpu_s([server.process.pid])
    engine_s = server.cpu_s() - api_s
    return {**parts, "engine CPU": engine_s, "API CPU": api_s, "client CPU": time.process_time()}


SCENARIOS = (Scenario("profile", "where the time of 1 and of 32 streams goes", _profile),)
