"""How requests arrive: closed loop (so many at a time) or open loop (Poisson arrivals that wait for nobody).

Everything random comes from the seed, so every contestant gets the same requests in the same order.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

from serving_bench.client import Answer, Ask, Endpoint, exchange

VOCABULARY: Final = range(100, 49_000)  # below are SmolLM2's special tokens and single bytes
_PAUSE_AFTER_REFUSAL_S: Final = 0.25  # or a client that is refused would use up everybody's requests
_DUE_TOGETHER_S: Final = 0.0005


def prompts(count: int, tokens: int, seed: int, *, shared: int = 0) -> list[list[int]]:
    """`count` prompts of `tokens` random token ids; the first `shared` of them are the same in all."""
    draw = random.Random(f"prompts {seed}")
    prefix = draw.choices(VOCABULARY, k=shared)
    return [prefix + draw.choices(VOCABULARY, k=tokens - shared) for _ in range(count)]


def asks(count: int, tokens: int, output_tokens: int, seed: int, *, shared: int = 0) -> list[Ask]:
    """Plain requests over such prompts."""
    return [Ask(prompt, output_tokens) for prompt in prompts(count, tokens, seed, shared=shared)]


async def closed_loop(endpoint: Endpoint, requests: Sequence[Ask], concurrency: int) -> list[Answer]:
    """`concurrency` clients, each with one request at a time, until all requests are answered."""
    waiting = iter(requests)
    answers: list[Answer] = []

    async def one_client() -> None:
        for ask in waiting:
            answers.append(await exchange(endpoint, ask))
            if answers[-1].status == 503:
                await asyncio.sleep(_PAUSE_AFTER_REFUSAL_S)

    await asyncio.gather(*(one_client() for _ in range(min(concurrency, len(requests)))))
    return answers


def arrivals_s(rate: float, duration_s: float, seed: int) -> list[float]:
    """Times of a Poisson process of `rate` a second."""
    draw = random.Random(f"arrivals {seed}")
    times: list[float] = []
    at = draw.expovariate(rate)
    while at < duration_s:
        times.append(at)
        at += draw.expovariate(rate)
    return times


async def open_loop(endpoint: Endpoint, requests: Sequence[Ask], times_s: Sequence[float]) -> list[Answer]:
    """Request n is sent at `times_s[n]` after now, whatever became of those before it."""
    start_s = time.monotonic()
    running: list[asyncio.Task[Answer]] = []
    for ask, at in zip(requests, times_s, strict=True):
        due_s = start_s + at
        if (wait_s := due_s - time.monotonic()) > _DUE_TOGETHER_S:
            await asyncio.sleep(wait_s)
        running.append(asyncio.create_task(exchange(endpoint, ask, due_s)))
    return list(await asyncio.gather(*running))
