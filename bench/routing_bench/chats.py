"""A trace of chats, made here: two long system prompts that everybody shares, and conversations of one to six turns."""

from __future__ import annotations

import itertools
import random
from typing import Any

from routing_bench.trace import BLOCK_TOKENS


def lines(users: int, seed: int = 1) -> list[dict[str, Any]]:
    """As of a file, sorted by time. Every turn has the whole conversation before it."""
    chance, found, numbers = random.Random(seed), [], itertools.count()
    systems = [[next(numbers) for _ in range(6)] for _ in range(2)]
    began = 0.0
    for _ in range(users):
        began += chance.expovariate(1 / 1000)
        at, blocks, opening = began, list(chance.choice(systems)), 0
        for _ in range(chance.randint(1, 6)):
            blocks = [*blocks, *(next(numbers) for _ in range(chance.randint(2, 6)))]
            opening = opening or len(blocks)
            size = {"input_length": len(blocks) * BLOCK_TOKENS + chance.randrange(BLOCK_TOKENS), "output_length": 100}
            found.append({"timestamp": at, **size, "hash_ids": [*blocks, next(numbers)], "opening_blocks": opening})
            at += chance.uniform(5_000, 60_000)
    return sorted(found, key=lambda line: line["timestamp"])
