"""A trace of prompts as chains of block hashes, and the best that any cache could make of it."""

from __future__ import annotations

import itertools
import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `blocks` are digests of its full blocks; equal ones mean an equal beginning.

    Of a chat the first `opening` ones end with the first user's turn; 0 where the trace knows no turns.
    """

    at_s: float
    prompt: int
    output: int
    blocks: tuple[bytes, ...]
    opening: int = 0


def read(path: Path) -> list[Asked]:
    """A file in Mooncake's format."""
    return parse(path.read_text().splitlines())


def parse(lines: Iterable[str]) -> list[Asked]:
    """Mooncake's format: a JSON object per line with timestamp (ms), input_length, output_length, hash_ids.

    A line may also have opening_blocks, see Asked.
    """
    found = []
    for line in lines:
        row = json.loads(line)
        full = row["input_length"] // BLOCK_TOKENS
        found.append(
            Asked(
                row["timestamp"] / 1000,
                max(1, row["input_length"]),
                max(1, row["output_length"]),
                tuple(number.to_bytes(8, "big") for number in row["hash_ids"][:full]),
                min(row.get("opening_blocks", 0), full),
            )
        )
    return sorted(found, key=lambda asked: asked.at_s)


def unshared(trace: Iterable[Asked]) -> list[Asked]:
    """The same load, in which no two prompts have a block in common."""
    numbers = itertools.count()
    return [
        replace(asked, blocks=tuple(b"own" + next(numbers).to_bytes(8, "big") for _ in asked.blocks)) for asked in trace
    ]


def ideal_hit_rate(trace: Sequence[Asked], kv_tokens: int | None = None) -> float:
    """The share of prompt tokens that one cache for everybody would have; without a bound, or of so many tokens (LRU).

    The last token of a prompt is always computed, as in the engine: it gives the first logits.
    """
    cache: OrderedDict[bytes, None] = OrderedDict()
    most = kv_tokens // BLOCK_TOKENS if kv_tokens is not None else None
    found = 0
    for asked in trace:
        usable = asked.blocks[: (asked.prompt - 1) // BLOCK_TOKENS]
        found += sum(1 for _ in itertools.takewhile(cache.__contains__, usable)) * BLOCK_TOKENS
        for block in reversed(asked.blocks):
            cache[block] = None
            cache.move_to_end(block)
        while most is not None and len(cache) > most:
            cache.popitem(last=False)
    return found / sum(asked.prompt for asked in trace)
