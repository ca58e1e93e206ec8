"""The scenarios in which peers take part: throughput, first token, prefill, and start."""

from __future__ import annotations

from typing import Any

from serving_bench.load import asks
from serving_bench.process import Server
from serving_bench.scenario import Scale, Scenario, plain


def _closed(concurrency: int, requests: int) -> Scenario:
    async def run(server: Server, scale: Scale) -> dict[str, Any]:
        count = scale.count(requests, least=min(16, concurrency))
        return await plain(server, asks(count, scale.tokens(128), scale.tokens(64), scale.seed), concurrency)

    about = f"128 tokens in, 64 out, {concurrency} at a time, {requests} requests"
    return Scenario(f"c{concurrency}", about, run, most=concurrency, longest=256, peers=True)


async def _prefill(server: Server, scale: Scale) -> dict[str, Any]:
    tokens = scale.tokens(512)
    result = await plain(server, asks(scale.count(8, least=2), tokens, 1, scale.seed), 1)
    if "ttft_ms" in result:
        result["prefill_tokens_per_s"] = round(tokens * 1e3 / result["ttft_ms"]["p50"], 1)
    return result


async def _start(server: Server, scale: Scale) -> dict[str, Any]:
    """The work was done when the server was started; a fresh one for every repeat (run.py)."""
    return {"ready_s": round(server.ready_s, 3), "first_token_s": round(server.first_token_s, 3)}


SCENARIOS = (
    _closed(1, 8),
    _closed(8, 32),
    _closed(32, 96),
    Scenario("prefill512", "512 tokens in, 1 out, one at a time", _prefill, most=1, longest=1024, peers=True),
    Scenario("start", "from the start of the process to a first token", _start, most=1, peers=True),
)
