"""The scenarios that measure ours against its own promises: prefix reuse, overload, long prompts, busy neighbours."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from serving_bench.client import Answer, Ask, exchange
from serving_bench.contestants import ours
from serving_bench.figures import in_ms
from serving_bench.load import arrivals_s, asks, closed_loop, open_loop
from serving_bench.process import Command, Server, watched
from serving_bench.scenario import ITL_GOAL_S, TTFT_TARGET_S, Scale, Scenario, figures, plain, warm_up

_OVERLOAD_S: Final = 60.0
_OVERLOAD_FACTOR: Final = 10.0
_PROBE_EVERY_S: Final = 0.25
_GIVE_UP_RECOVERY_S: Final = 30.0
_NEIGHBOURS: Final = 2


def _cache_or_not() -> dict[str, Command]:
    """Nobody is refused for a late first token: both do the same work."""
    patient = ("--ttft-target-s", "600")
    return {"topmast": ours(*patient), "without cache": ours("--no-prefix-cache", *patient)}


async def _prefix(server: Server, scale: Scale) -> dict[str, Any]:
    tokens = scale.tokens(512)
    requests = asks(scale.count(96, least=4), tokens, scale.tokens(64), scale.seed, shared=round(0.7 * tokens))
    return await plain(server, requests, 32)


def _invariant_or_not() -> dict[str, Command]:
    return {"topmast": ours(), "batch-invariant": ours("--batch-invariant")}


async def _invariance(server: Server, scale: Scale) -> dict[str, Any]:
    return await plain(server, asks(scale.count(32, least=8), scale.tokens(128), scale.tokens(64), scale.seed), 8)


def _with_target() -> dict[str, Command]:
    """Room for 32 sequences and no more: the cache is full after seconds, and what grows later is no cache."""
    return {"topmast": ours("--ttft-target-s", f"{TTFT_TARGET_S:g}", "--kv-cache-bytes", "192Mi")}


async def _overload(server: Server, scale: Scale) -> dict[str, Any]:
    """First what can be sustained, then ten times that, then how long it takes until a newcomer is served again."""
    await warm_up(server)
    lengths = scale.tokens(128), scale.tokens(64)
    sustained = figures(await closed_loop(server.endpoint, asks(scale.count(64, least=16), *lengths, scale.seed), 32))
    rate = _OVERLOAD_FACTOR * sustained["requests_per_s"]
    times = arrivals_s(rate, scale.seconds(_OVERLOAD_S), scale.seed)
    async with watched(server) as usage:
        crowd = asyncio.create_task(open_loop(server.endpoint, asks(len(times), *lengths, scale.seed + 1), times))
        await asyncio.sleep(times[-1])
        recovery_s = await _recovery_s(server, scale)
        answers = await crowd
    result = figures(answers) | {"usage": usage, "offered_per_s": round(rate, 2), "recovery_s": recovery_s}
    result["ttft_target_ms"] = TTFT_TARGET_S * 1e3
    return result | {"sustained_requests_per_s": sustained["requests_per_s"]}


async def _recovery_s(server: Server, scale: Scale) -> float:
    """Seconds until a request that is sent then is accepted and has its first token within half of the target."""
    began_s, patience_s = time.monotonic(), scale.seconds(_GIVE_UP_RECOVERY_S, least=6)  # beyond the bar in any case
    probes: list[asyncio.Task[Answer]] = []
    requests = iter(asks(int(patience_s / _PROBE_EVERY_S) + 1, scale.tokens(128), 4, scale.seed + 2))
    while time.monotonic() - began_s < patience_s:
        probes.append(asyncio.create_task(exchange(server.endpoint, next(requests))))
        await asyncio.sleep(_PROBE_EVERY_S)
        done = [probe.result() for probe in probes if probe.done()]
        if any(each.complete and each.ttft_s <= TTFT_TARGET_S / 2 for each in done):
            break
    answers = await asyncio.gather(*probes)
    good = [each.sent_s - began_s for each in answers if each.complete and each.ttft_s <= TTFT_TARGET_S / 2]
    return round(min(good, default=patience_s), 3)


async def _long_prefill(server: Server, scale: Scale) -> dict[str, Any]:
    """Eight streams decode; meanwhile prompts of 4096 tokens arrive, one after the other."""
    await warm_up(server)
    streaming = asks(8, 64, scale.count(600, least=100), scale.seed)
    async with watched(server) as usage:
        begun = [asyncio.Event() for _ in streaming]
        pairs = zip(streaming, begun, strict=True)
        streams = [asyncio.create_task(exchange(server.endpoint, ask, begun=event)) for ask, event in pairs]
        await asyncio.gather(*(event.wait() for event in begun))  # all decode before the first long prompt comes
        long_prompts = asks(scale.count(3), scale.tokens(4096), 1, scale.seed + 1)
        long = [answer for answer in await closed_loop(server.endpoint, long_prompts, 1) if answer.complete]
        answers = await asyncio.gather(*streams)
    windows = [(answer.sent_s, answer.events_s[0]) for answer in long]
    beside = [gap for answer in answers for gap in _gaps_within(answer, windows)]
    result = figures(answers) | {"usage": usage, "gap_beside_prefill_ms": in_ms(beside), "gaps": len(beside)}
    result["long_ttft_ms"] = in_ms([answer.ttft_s for answer in long])
    return result | {"itl_goal_ms": ITL_GOAL_S * 1e3}


def _gaps_within(answer: Answer, windows: list[tuple[float, float]]) -> list[float]:
    """Gaps that overlap a window: a stall that begins in one and ends after it counts in full."""
    pairs = zip(answer.events_s, answer.events_s[1:], strict=False)
    return [b - a for a, b in pairs if any(a < end and b > begin for begin, end in windows)]


async def _neighbours(server: Server, scale: Scale) -> dict[str, Any]:
    await warm_up(server)
    with busy_neighbours(_NEIGHBOURS):
        requests = [Ask(ask.prompt, scale.count(256, least=16)) for ask in asks(4, 64, 1, scale.seed)]
        answers = await closed_loop(server.endpoint, requests, 1)
    result = figures(answers)
    if gaps := result.get("gap_ms"):
        result["gap_p99_over_p50"] = round(gaps["p99"] / gaps["p50"], 2)
    return result


@contextlib.contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Processes that use a core each, for ten minutes at most, ended by their ids."""
    loop = "import time\nend = time.monotonic() + 600\nwhile time.monotonic() < end: pass"
    running = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


SCENARIOS = (
    Scenario("prefix", "512 in, of which 70 % are shared, 64 out, 32 at a time", _prefix, variants=_cache_or_not),
    Scenario(
        "overload", "10 times the sustainable rate for 60 s, open loop", _overload, variants=_with_target, repeats=1
    ),
    Scenario("longprefill", "prompts of 4096 tokens beside 8 decoding streams", _long_prefill, longest=8192),
    Scenario(
        "invariance",
        "128 in, 64 out, 8 at a time, with and without --batch-invariant",
        _invariance,
        variants=_invariant_or_not,
    ),
    Scenario("neighbours", "one stream at a time beside two busy loops", _neighbours, most=1),
)
