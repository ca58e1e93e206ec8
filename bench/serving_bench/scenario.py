"""What a scenario is, and the figures that every scenario with plain requests shares."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from serving_bench.client import Answer, Ask
from serving_bench.figures import summary
from serving_bench.load import asks, closed_loop
from serving_bench.process import Command, Server, watched

TTFT_TARGET_S = 2.0
ITL_GOAL_S = 0.15


@dataclass(frozen=True)
class Scale:
    """1.0 is the real thing; below, fewer requests, shorter times and in the end shorter texts: does it still work?"""

    factor: float = 1.0
    seed: int = 0

    def count(self, full: int, least: int = 1) -> int:
        """So many of `full` requests."""
        return max(least, round(full * self.factor))

    def tokens(self, full: int) -> int:
        """A length: the full one down to a tenth of the requests, shorter below that."""
        return max(8, round(full * min(1.0, 10 * self.factor)))

    def seconds(self, full: float, least: float = 1.0) -> float:
        """So much of `full` seconds."""
        return max(least, full * self.factor)

    def of(self, scenario: str, repeat: int) -> Scale:
        """Other requests for every scenario and repeat, so that no cache helps; the same ones for every contestant."""
        return replace(self, seed=zlib.crc32(f"{self.seed} {scenario} {repeat}".encode()))


@dataclass(frozen=True)
class Scenario:
    """`run` measures once on a running server and returns figures. `most` and `longest` size a peer's slots.

    variants: flags of ours, by the name that the variant has in the results; None where the plain server is meant.
    """

    name: str
    about: str
    run: Callable[[Server, Scale], Awaitable[dict[str, Any]]]
    most: int = 32
    longest: int = 512
    peers: bool = False  # whether peers take part
    variants: Callable[[], dict[str, Command]] | None = None
    repeats: int | None = None  # None: as the command line says


async def warm_up(server: Server) -> None:
    """A first batch that is not counted: whatever a server does only once, it does now."""
    await closed_loop(server.endpoint, asks(4, 64, 8, seed=-1), 4)


async def plain(server: Server, requests: list[Ask], concurrency: int) -> dict[str, Any]:
    """Closed loop, with what client and server used meanwhile."""
    await warm_up(server)
    async with watched(server) as usage:
        answers = await closed_loop(server.endpoint, requests, concurrency)
    return figures(answers) | {"usage": usage}


def figures(answers: list[Answer]) -> dict[str, Any]:
    """The summary under the targets of the issue."""
    return summary(answers, ttft_target_s=TTFT_TARGET_S, itl_target_s=ITL_GOAL_S)
