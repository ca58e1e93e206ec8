"""The gateway with one thing more, beside the plain one: what do TLS, tokens, limits and a second gateway cost?

Each is a Front that is asked the same things by the same code as the plain one, alternating with it in the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx

from gateway.lab import certificates, tokens
from gateway.lab.stage import KEY, SHARED_TOKEN, Gateway, eventually, hashed
from gateway_bench import front as fronts
from gateway_bench.client import connect
from gateway_bench.front import Front, pinned
from gateway_bench.load import (
    FAST_PACE_S,
    Answered,
    Carried,
    Seen,
    alternating,
    answer,
    ask_in_turns,
    carry,
    events_of_an_answer,
    spread,
)

_STREAMS, _FAST_STREAMS, _CLIENTS = 32, 64, 8
_LIMITED: Final = "tm-" + "m" * 40
_LIMITS: Final = {"requestsPerMinute": 10**9, "tokensPerMinute": 10**12, "budgetTokens": 10**14, "maxStreams": 10**6}


@contextlib.contextmanager
def tls(plain: Front) -> Iterator[Front]:
    """TLS 1.3 with an ECDSA certificate. The client's own share of it is in the latencies, too."""
    with tempfile.TemporaryDirectory() as folder:
        cert, key = certificates.write_pair(Path(folder), "bench")
        with fronts.another(plain.stage, "--tls-cert", str(cert), "--tls-key", str(key)) as gateway:
            target = replace(fronts.target(gateway, KEY), tls=certificates.trusting_anybody())
            yield replace(plain, pids=(gateway.process.pid,), ways=(target,))


@contextlib.contextmanager
def jwt(plain: Front) -> Iterator[Front]:
    """A token of an issuer's in place of a key, signed with ES256, the same in every request, as clients send them."""
    with tempfile.TemporaryDirectory() as folder:
        jwks = Path(folder) / "jwks.json"
        jwks.write_bytes(tokens.JWKS)
        flags = ("--jwt-jwks", str(jwks), "--jwt-issuer", tokens.ISSUER, "--jwt-audience", tokens.AUDIENCE)
        token = tokens.token(exp=int(time.time()) + 3600, topmast_models=[f"{fronts.NAMESPACE}/*"]).decode()
        with fronts.another(plain.stage, *flags) as gateway:
            yield replace(plain, pids=(gateway.process.pid,), ways=(fronts.target(gateway, token),))


@contextlib.contextmanager
def limits(plain: Front) -> Iterator[Front]:
    """A key with every limit, in a team with every limit, none of which refuses anything."""
    entry = {"hash": hashed(_LIMITED), "team": "bench", **_LIMITS}
    named = {"limited": json.dumps(entry), "team.bench": json.dumps(_LIMITS)}
    with fronts.more_keys(plain.stage, **named), fronts.another(plain.stage) as gateway:
        yield replace(plain, pids=(gateway.process.pid,), ways=(fronts.target(gateway, _LIMITED),))


@contextlib.contextmanager
def two(plain: Front) -> Iterator[Front]:
    """Two gateways that tell each other what was used, on the core that the plain one has alone; clients take turns."""
    ports = _free_ports()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        token = Path(folder) / "token"
        token.write_text(SHARED_TOKEN)
        both = []
        for own, other in (ports, reversed(ports)):
            flags = ("--shared-token-file", str(token), "--admin-port", own, "--peers", f"127.0.0.1:{other}")
            both.append(stack.enter_context(fronts.another(plain.stage, *flags)))
        _know_each_other(*both)
        pids = tuple(gateway.process.pid for gateway in both)
        yield replace(plain, pids=pids, ways=tuple(fronts.target(gateway, KEY) for gateway in both))


VARIANTS: Final[dict[str, Callable[[Front], AbstractContextManager[Front]]]] = {
    each.__name__: each for each in (tls, jwt, limits, two)
}


def scenario(name: str) -> Callable[[Front, float], Awaitable[dict[str, Any]]]:
    """A variant beside the plain case."""

    async def beside(plain: Front, scale: float) -> dict[str, Any]:
        with VARIANTS[name](plain) as variant:
            return await _beside(plain, variant, scale)

    return beside


@dataclass
class _Found:
    """Of one of the two, a while after the other."""

    seen: Seen = field(default_factory=Seen)
    carried: list[Carried] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    us_per_connection: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        return {
            **self.seen.in_ms(),
            "us_per_event": round(median(each.us_per_event for each in self.carried), 1),
            "events_per_read": Carried.all_of(self.carried).figures()["events_per_read"],
            "us_per_request": round(median(each.us_per_request for each in self.answered)),
            "us_per_connection": round(median(self.us_per_connection)),
        }


async def _beside(plain: Front, variant: Front, scale: float) -> dict[str, Any]:
    turns, seconds = max(1, round(4 * scale)), max(0.1, 2 * scale)
    requests, events = max(1, round(4 * scale)), events_of_an_answer(scale, _STREAMS)  # of each stream in each turn
    ways = {"plain": (plain, _Found()), "variant": (variant, _Found())}
    for front, found in alternating(tuple(ways.values()), turns):
        with pinned(front):
            await ask_in_turns(front.ways, _STREAMS, requests, events, found.seen)
            found.carried.append(await carry(front, _FAST_STREAMS, FAST_PACE_S, seconds))
            found.answered.append(await answer(front, _CLIENTS, seconds))
            found.us_per_connection.append(await _connections(front, max(10, round(200 * scale))))
    without, with_it = (found for _, found in ways.values())
    figures = {name: found.figures() for name, (_, found) in ways.items()}
    return {"turns": turns, "streams": _STREAMS, **figures, "ratio": _ratios(with_it, without)}


def _ratios(ours: _Found, theirs: _Found) -> dict[str, Any]:
    """To the plain case: of percentiles over all turns, and of CPU time turn by turn."""
    mine, plain = ours.seen.in_ms(), theirs.seen.in_ms()
    events = zip(ours.carried, theirs.carried, strict=True)
    requests = zip(ours.answered, theirs.answered, strict=True)
    connections = zip(ours.us_per_connection, theirs.us_per_connection, strict=True)
    return {
        **{kind: {at: round(mine[kind][at] / plain[kind][at], 3) for at in mine[kind]} for kind in mine},
        "us_per_event": spread([one.us_per_event / other.us_per_event for one, other in events]),
        "us_per_request": spread([one.us_per_request / other.us_per_request for one, other in requests]),
        "us_per_connection": spread([one / other for one, other in connections]),
    }


async def _connections(front: Front, count: int) -> float:
    """CPU time of a new connection, its handshake included, and of its first request, µs."""
    cpu_s = front.cpu_s()
    for number in range(count):
        connection = await connect(front.way(number), keep=False)
        connection.transport.write(front.way(number).request(1, FAST_PACE_S))
        await connection.done
        if connection.status != b"200":
            raise RuntimeError(f"a request was answered with status {connection.status!r}")
        connection.transport.close()
        await asyncio.sleep(0)
    return (front.cpu_s() - cpu_s) / count * 1e6


def _free_ports() -> tuple[str, str]:
    """Known before either gateway starts: each needs the other's."""
    with socket.socket() as one, socket.socket() as other:
        for sock in (one, other):
            sock.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1]), str(other.getsockname()[1])


def _know_each_other(one: Gateway, other: Gateway) -> None:
    """What is used at either is counted at both."""
    for here in (one, other):
        target = fronts.target(here, KEY)
        fields = {"model": target.model, "messages": [], "max_tokens": 1, "stream": True, "user": "0.1 0"}
        headers = {"authorization": f"Bearer {KEY}"}
        httpx.post(f"{here.url}/v1/chat/completions", json=fields, headers=headers).raise_for_status()
    replicas = {gateway.usage()["replica"] for gateway in (one, other)}
    for gateway in (one, other):
        eventually(partial(_counts, gateway, replicas), "the gateways know each other")


def _counts(gateway: Gateway, replicas: set[str]) -> bool:
    """Whether it has the counts of all of these."""
    return replicas <= {row[0] for row in gateway.usage()["counts"]}
