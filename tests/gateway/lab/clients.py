"""Clients of scripted engines: each asks once, keeps its own account of what it got, and some leave before the end."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp

from gateway.lab.scripted import Reported, Script
from gateway.lab.stage import soon

PATHS = ("/v1/chat/completions", "/v1/completions")
KINDS = {
    **{"answered": 49, "moved": 12, "early": 6, "held": 9, "moved, held": 3, "running": 8, "at once": 3},
    **{"failed": 4, "refused": 3, "unaffordable": 1, "turned away": 2},
}  # of a hundred


@dataclass
class Client:
    """One request, and what its client has seen of it.

    It leaves once `leaves_at` tokens were generated: those that it has seen, where it streams. "at once" is without
    waiting for anything, "early" before the first token, "turned away" are those who never get as far as an account.
    """

    number: int
    kind: str
    key: str
    model: str
    path: str
    stream: bool
    script: Script
    fields: dict[str, Any]
    leaves_at: int | None = None
    status: int = 0
    seen: int = 0  # tokens of the answer
    usage: dict[str, int] | None = None

    @property
    def id(self) -> str:
        """Of the request."""
        return f"budget-{self.number}"

    async def ask(self, http: aiohttp.ClientSession, reported: Mapping[str, Reported]) -> None:
        """Until the answer ends, or the client leaves."""
        asking = asyncio.create_task(self._read(http))
        if self.kind == "at once":
            await asyncio.sleep(0.0005 * (self.number % 7))
        elif self.leaves_at is None:
            await asking
        else:
            await soon(lambda: asking.done() or self._has_enough(reported.get(self.id)), "the time to leave", 60)
        asking.cancel()
        await asyncio.wait([asking])
        if not asking.cancelled():
            asking.result()

    def _has_enough(self, reported: Reported | None) -> bool:
        assert self.leaves_at is not None
        if self.leaves_at and self.stream:
            return self.seen >= self.leaves_at
        return reported is not None and reported.tokens >= self.leaves_at

    async def _read(self, http: aiohttp.ClientSession) -> None:
        headers = {"Authorization": f"Bearer {self.key}", "x-request-id": self.id}
        prompt = {"messages": [{"role": "user", "content": self.id}]} if "chat" in self.path else {"prompt": self.id}
        body = {"model": self.model, "stream": self.stream, **prompt, **self.fields, "script": asdict(self.script)}
        rest = b""
        async with http.post(self.path, json=body, headers=headers) as answer:
            self.status = answer.status
            async for piece in answer.content.iter_any():
                *events, rest = (rest + piece).split(b"\n\n")
                for event in events:
                    self._take(event)
        self._take(rest)

    def _take(self, event: bytes) -> None:
        if event and event != b"data: [DONE]" and not event.startswith(b":"):  # a comment: somebody is still there
            answer = json.loads(event.removeprefix(b"data: "))
            self.seen += answer.get("tokens", 0)
            self.usage = answer.get("usage", self.usage)


def a_mix(hundreds: int, keys: list[str], models: list[str]) -> list[Client]:
    """Always the same."""
    rng = random.Random(6)
    kinds = [kind for kind, share in KINDS.items() for _ in range(share * hundreds)]
    rng.shuffle(kinds)
    return [_client(rng, number, kind, keys, models) for number, kind in enumerate(kinds)]


def _client(rng: random.Random, number: int, kind: str, keys: list[str], models: list[str]) -> Client:
    lines = tuple(rng.randint(1, 4) for _ in range(rng.randint(3, 9)))
    somewhere = rng.randint(1, len(lines) - 1)
    what_happens: dict[str, dict[str, Any]] = {
        "moved": {"cuts": (rng.randint(0, somewhere), somewhere)[: rng.randint(1, 2)]},
        "early": {"hold": 0},
        "held": {"hold": somewhere},
        "moved, held": {"hold": somewhere, "cuts": (rng.randint(0, somewhere),)},
        "failed": {"fail": rng.randint(0, somewhere)},
        "refused": {"status": rng.choice((400, 500))},
    }
    script = Script(rng.randint(2, 60), lines, **what_happens.get(kind, {}))
    stream = kind.endswith("held") or rng.random() < 0.5
    fields: dict[str, Any] = {"max_tokens": rng.choice((40, 64, 200, 500))}
    client = Client(number, kind, rng.choice(keys), rng.choice(models), rng.choice(PATHS), stream, script, fields)
    if kind in ("early", "running", "held", "moved, held"):
        client.leaves_at = 0 if kind == "early" else script.tokens(somewhere)
    elif kind == "unaffordable":
        fields |= {"max_tokens": 32_768, "n": 8}
    elif kind == "turned away" and number % 3:
        client.model = "nobody/none"
    elif kind == "turned away":
        fields["user"] = "x" * 8 * 1024 * 1024
    return client
