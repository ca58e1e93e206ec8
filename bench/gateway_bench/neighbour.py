"""A noisy neighbour, with a real engine: does a key that asks ten times too much make another one wait?

Two keys of equal weight share one engine. The quiet one asks for half of its share the whole time, the noisy one first
for all of its own, then for ten times as much; both at random moments, waiting for nobody. What counts is the quiet
key's time to its first token, over several alternating turns. In both turns of a pair it asks at the same moments: its
own bursts make it wait longest, and they must not decide. The engine has half of the cores to itself, as a pod would:
what the refusal of a flood costs is the gateway's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
from serving_bench.figures import percentile

from gateway.lab.served import Served
from gateway.lab.stage import Gateway, eventually
from gateway_bench import front

_NAMESPACE, _MODEL = "neighbour", "smollm2"
_QUIET, _NOISY = "tm-" + "q" * 40, "tm-" + "n" * 40
_PROMPT_TOKENS, _ANSWER_TOKENS = 64, 48
_SATURATE_S: Final = 15.0
_TURN_S: Final = 80.0
_SETTLE_S: Final = 8.0  # of a turn, before its first request that counts
_CLIENTS: Final = 40  # that find out what the engine can do


def run(turns: int, seed: int) -> dict[str, Any]:
    """`ratio` is the quiet key's p99 beside the noisy one at ten times its share, over that at its share."""
    cores = sorted(os.sched_getaffinity(0))
    engines, others = set(cores[: len(cores) // 2]) or set(cores), set(cores[len(cores) // 2 :])
    with _on(others), front.control_plane() as stage, tempfile.TemporaryDirectory() as folder:
        stage.namespace(_NAMESPACE)
        stage.keys(quiet=_QUIET, noisy=_NOISY)
        stage.model(_NAMESPACE, _MODEL)
        gateway = Gateway(stage.kubeconfig, "--namespace", _NAMESPACE, "--queue-s", "20")
        with _on(engines):
            engine = Served(Path(folder), _MODEL, flags=("--batch-invariant", "--ttft-target-s", "60"))
        try:
            eventually(engine.ready, "the engine is ready", 180)
            stage.pod(_NAMESPACE, _MODEL, engine.ip)
            gateway.wait_ready().sees(f"{_NAMESPACE}/{_MODEL}", 1)
            return asyncio.run(_measure(gateway.url, turns, random.Random(seed)))
        finally:
            gateway.close()
            engine.close()


@contextlib.contextmanager
def _on(cores: set[int]) -> Iterator[None]:
    """Processes that are started in the block run on these cores only, and so does this one until its end."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


async def _measure(url: str, turns: int, draw: random.Random) -> dict[str, Any]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as client:
        per_s = await _most_per_s(client, draw)
        share = per_s / 2
        times: dict[int, list[float]] = {1: [], 10: []}
        refused: dict[int, int] = {1: 0, 10: 0}
        for turn in range(turns):
            for factor in (1, 10) if turn % 2 else (10, 1):
                found, errors = await _turn(client, share, factor, draw, random.Random(turn))
                times[factor] += found
                refused[factor] += errors
                print(f"noisy at {factor} x: {len(found)} answers, p99 {percentile(found, 99):.3f} s", flush=True)
    shown = {
        f"noisy_at_{factor}": {
            **{f"p{percent}_s": round(percentile(found, percent), 3) for percent in (50, 90, 99)},
            **{"answers": len(found), "refused": refused[factor]},
        }
        for factor, found in times.items()
    }
    ratio = percentile(times[10], 99) / percentile(times[1], 99)
    return {"engine_requests_per_s": round(per_s, 2), **shown, "ratio_p99": round(ratio, 3)}


async def _most_per_s(client: aiohttp.ClientSession, draw: random.Random) -> float:
    """What the engine can do with such requests, asked by as many clients as fill it."""
    done, ends_s = 0, time.monotonic() + _SATURATE_S

    async def ask() -> None:
        nonlocal done
        while time.monotonic() < ends_s:
            answer = await _ttft_s(client, _NOISY, draw)
            done += answer is not None

    await asyncio.gather(*(ask() for _ in range(_CLIENTS)))
    return done / _SATURATE_S


async def _turn(
    client: aiohttp.ClientSession, share: float, factor: int, draw: random.Random, moments: random.Random
) -> tuple[list[float], int]:
    """The quiet key's times, and how many of its requests got no answer; it asks at these `moments`."""
    began_s = time.monotonic()
    noisy: set[asyncio.Task[Any]] = set()
    quiet: list[asyncio.Task[float | None]] = []

    async def arrivals(per_s: float, key: str, moments: random.Random) -> None:
        at_s = 0.0
        while (at_s := at_s + moments.expovariate(per_s)) < _TURN_S:
            await asyncio.sleep(at_s - (time.monotonic() - began_s))
            task = asyncio.create_task(_ttft_s(client, key, draw))
            if key == _NOISY:
                noisy.add(task)
                task.add_done_callback(noisy.discard)
            elif at_s >= _SETTLE_S:
                quiet.append(task)

    await asyncio.gather(arrivals(share / 2, _QUIET, moments), arrivals(share * factor, _NOISY, draw))
    answers = await asyncio.gather(*quiet)
    await asyncio.gather(*noisy)
    return [answer for answer in answers if answer is not None], answers.count(None)


async def _ttft_s(client: aiohttp.ClientSession, key: str, draw: random.Random) -> float | None:
    """Of one streamed request, which is read to its end; None where it got no answer."""
    prompt = [draw.randrange(1000, 40_000) for _ in range(_PROMPT_TOKENS)]
    body = {"model": _MODEL, "prompt": prompt, "max_tokens": _ANSWER_TOKENS, "ignore_eos": True, "stream": True}
    headers = {"Authorization": f"Bearer {key}"}
    asked_s, first_s = time.monotonic(), None
    async with client.post("/v1/completions", json=body, headers=headers) as answer:
        async for piece in answer.content.iter_any():
            if first_s is None and answer.status == 200 and b"data: " in piece:
                first_s = time.monotonic() - asked_s
    return first_s
