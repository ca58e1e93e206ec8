"""Ten thousand requests with random lengths, priorities, deadlines and clients that leave: nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any, Final

from serving_bench.client import Ask
from serving_bench.contestants import ours
from serving_bench.load import VOCABULARY, closed_loop
from serving_bench.process import Command, Server, get, watched
from serving_bench.scenario import Scale, Scenario, figures, warm_up

_REQUESTS: Final = 10_000
_CLIENTS: Final = 48
_PREFIXES: Final = 20
_SETTLE_S: Final = 5.0
_EMPTY: Final = ("running", "waiting", "waiting_prompt_tokens", "kv_tokens_used")
# A pool that the batch does not fit into, so that sequences are preempted and cached blocks are given up.
_FLAGS: Final = ("--kv-cache-bytes", "48Mi", "--max-model-len", "512", "--max-waiting-requests", "12")


def _small_pool() -> dict[str, Command]:
    return {"topmast": ours(*_FLAGS)}


def mixed(count: int, seed: int) -> list[Ask]:
    """Requests of every kind: shared prefixes, three priorities, deadlines that some miss, and clients that leave."""
    draw = random.Random(f"soak {seed}")
    prefixes = [draw.choices(VOCABULARY, k=draw.randint(16, 96)) for _ in range(_PREFIXES)]
    result = []
    for _ in range(count):
        prompt = draw.choice(prefixes) + draw.choices(VOCABULARY, k=draw.randint(1, 32))
        extra: dict[str, Any] = {"priority": draw.randint(0, 2)}
        if draw.random() < 0.1:
            extra["timeout"] = round(draw.uniform(0.05, 2.0), 3)
        leave = draw.uniform(0.0, 1.0) if draw.random() < 0.15 else None
        result.append(Ask(prompt, draw.randint(1, 40), extra, leave))
    return result


async def _soak(server: Server, scale: Scale) -> dict[str, Any]:
    await warm_up(server)
    before = await _work(server)
    requests = mixed(scale.count(_REQUESTS, least=50), scale.seed)
    async with watched(server) as usage:
        answers = await closed_loop(server.endpoint, requests, _CLIENTS)
    after = await _settled(server)
    result = figures(answers) | {"usage": usage}
    result["deadline"] = sum(each.error == "deadline_exceeded" for each in answers)
    result["errors"].pop("deadline_exceeded", None)
    result["left_behind"] = {name: after[name] for name in _EMPTY}
    arrived, finished = (after[name] - before[name] for name in ("requests_total", "requests_finished_total"))
    result["counters"] = {"sent": len(requests), "arrived": arrived, "finished": finished}
    result["preemptions"] = await _counter(server, "vllm:num_preemptions_total")
    result["clean"] = _clean(result)
    return result


def _clean(result: dict[str, Any]) -> float:
    """1 where pool, queue and counters agree that nothing is left, and nobody got a wrong answer."""
    counters = result["counters"]
    # A client that leaves before its request is read was never there for the server.
    counted = (
        counters["arrived"] == counters["finished"] and 0 <= counters["sent"] - counters["arrived"] <= result["left"]
    )
    return float(not any(result["left_behind"].values()) and counted and not result["errors"])


async def _work(server: Server) -> dict[str, int]:
    _, body = await get(server.admin_port, "/state")
    return dict(json.loads(body)["work"])


async def _settled(server: Server) -> dict[str, int]:
    """The counters once nothing runs any more, or as they are after five seconds."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        work = await _work(server)
        busy = any(work[name] for name in _EMPTY) or work["requests_total"] != work["requests_finished_total"]
        if time.monotonic() > deadline or not busy:
            return work
        await asyncio.sleep(0.05)


async def _counter(server: Server, name: str) -> float | None:
    _, body = await get(server.endpoint.port, "/metrics")
    lines = [line for line in body.decode().splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines) if lines else None


SCENARIOS = (
    Scenario(
        "soak",
        "10000 requests with cancels, deadlines and priorities in a small pool",
        _soak,
        variants=_small_pool,
        repeats=1,
    ),
)
