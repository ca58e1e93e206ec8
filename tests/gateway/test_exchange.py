"""Gateways that tell each other what was used: over real HTTP on loopback addresses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from gateway.engines import free_address
from gateway.stage import soon
from topmast_gateway import exchange
from topmast_gateway.caller import Caller, Limits
from topmast_gateway.counters import Counters
from topmast_gateway.errors import Refusal
from topmast_gateway.exchange import Exchange
from topmast_gateway.ledger import Ledger
from topmast_gateway.tally import Tally

PORT = 18081
ALICE = Caller("alice", limits=Limits(budget_tokens=1000, budget_period="total", max_streams=2))


class Replica:
    """One gateway's ledger with its admin port. `peers` are the addresses that DNS would give."""

    def __init__(self, name: str, peers: list[str], ip: str) -> None:
        self.counters = Counters(name)
        self.ledger = Ledger(self.counters, time.time)
        self.exchange = Exchange(self.counters, self.ledger)
        self.exchange._resolve = self._resolve  # type: ignore[method-assign]
        self.peers, self.ip = peers, ip
        self.garbage = b""

    async def _resolve(self, _: str) -> set[str]:
        return {f"{ip}:{PORT}" for ip in self.peers}

    async def _usage(self, request: web.Request) -> web.Response:
        return web.Response(body=self.garbage or self.exchange.answer(request.query_string.encode()))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Replica]:
        app = web.Application()
        app.router.add_get("/usage", self._usage)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, self.ip, PORT).start()
        async with aiohttp.ClientSession() as client:
            following = asyncio.create_task(self.exchange.follow("gateways:1", client))
            try:
                yield self
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await runner.cleanup()

    def use(self, tokens: int) -> None:
        with self.ledger.reserved(ALICE, tokens, Tally(output=tokens, exact=True)):
            pass


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "EVERY_S", 0.05)
    monkeypatch.setattr(exchange, "_BELIEVED_S", 0.5)


async def test_budgets_and_places_hold_over_all_gateways_and_outlive_a_restart(fast: None) -> None:
    addresses = [free_address(), free_address()]
    async with Replica("two", addresses, addresses[1]).running() as two:
        async with Replica("one", addresses, addresses[0]).running() as one:
            one.use(300)
            two.use(200)
            await soon(lambda: one.ledger.used(ALICE) == two.ledger.used(ALICE) == 500, "both know both")
            with one.ledger.reserved(ALICE, 400, Tally()):
                await soon(lambda: two.ledger.held("alice").tokens == 400, "reservations are known, too")
                with pytest.raises(Refusal) as refused:
                    two.use(101)
                assert refused.value.code == "insufficient_quota"
            await soon(lambda: two.ledger.held("alice").tokens == 0, "and their end")
        async with Replica("one-again", addresses, addresses[0]).running() as one:
            await soon(lambda: one.ledger.used(ALICE) == 500, "the restarted one is told")
            one.use(7)
            await soon(lambda: two.ledger.used(ALICE) == 507, "and counts on")


async def test_what_a_gateway_held_when_it_died_is_given_back_soon(fast: None) -> None:
    addresses = [free_address(), free_address()]
    async with Replica("two", addresses, addresses[1]).running() as two:
        async with Replica("one", addresses, addresses[0]).running() as one:
            held = one.ledger.reserved(ALICE, 1000, Tally())
            held.__enter__()
            await soon(lambda: two.ledger.held("alice").tokens == 1000, "it is known")
        await soon(lambda: two.ledger.held("alice").tokens == 0, "it is given back", 3)
        two.use(1000)


@pytest.mark.parametrize(
    "garbage",
    [b"no json", b"[]", b'{"replica": "x", "version": 1, "counts": [[1]], "open": {}}',
     b'{"replica": "x", "version": "y", "counts": [], "open": {}}',
     b'{"replica": "x", "version": 1, "counts": [], "open": {"alice": [1]}}'],
)  # fmt: skip
async def test_nonsense_of_a_peer_changes_nothing(fast: None, garbage: bytes) -> None:
    addresses = [free_address(), free_address()]
    one, two = Replica("one", addresses, addresses[0]), Replica("two", [], addresses[1])
    async with one.running(), two.running():
        two.garbage = garbage
        await asyncio.sleep(0.2)
        assert len(one.counters) == 0 and one.ledger.peers == {}
        two.garbage = b""
        two.use(5)
        await soon(lambda: one.ledger.used(ALICE) == 5, "it goes on asking")


def test_only_what_changed_is_told_to_those_who_asked_before() -> None:
    counters = Counters("one")
    asked = Exchange(counters, Ledger(counters, time.time))
    counters.add("alice", "total", charged=1)
    first = json.loads(asked.answer(b""))
    counters.add("bob", "total", charged=1)
    second = json.loads(asked.answer(f"since=one:{first['version']}".encode()))
    assert [row[1] for row in first["counts"]] == ["alice"] and [row[1] for row in second["counts"]] == ["bob"]
    for stranger in (b"since=other:1", b"since=one:x", b"since=", b"since=one:%FF", b"since=one:" + b"9" * 50):
        assert len(json.loads(asked.answer(stranger))["counts"]) == 2
