"""Gateways that report to each other what was used: over real HTTP on loopback addresses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from gateway.lab.engines import free_address
from gateway.lab.stage import soon
from topmast_gateway.http.admin import Admin
from topmast_gateway.http.listener import Server, bind
from topmast_gateway.identity import shared_token
from topmast_gateway.identity.caller import Caller, Limits
from topmast_gateway.identity.shared_token import SharedToken
from topmast_gateway.limits import replication
from topmast_gateway.limits.counters import Counters
from topmast_gateway.limits.quota import QuotaEnforcer
from topmast_gateway.limits.replication import CounterReplication
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.request import Request
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.observability.caller_usage import CallerUsage
from topmast_gateway.observability.metrics import Metrics

PORT = 18081
QUEUE = {"replica": "one", "models": {"ns/m": {}}}
TOKEN = b"a token that all gateways have"
ALICE = Caller("alice", limits=Limits(budget_tokens=1000, budget_period="total", max_streams=2))


class Replica:
    """One gateway's ledger with its admin port. `peers` are the addresses that DNS would give."""

    def __init__(self, name: str, peers: list[str], ip: str, token_file: Path | None) -> None:
        self.counters = Counters(name)
        self.quota = QuotaEnforcer(self.counters, time.time)
        self.replication = CounterReplication(self.counters, self.quota)
        self.replication._resolve = self._resolve  # type: ignore[method-assign]
        self.peers, self.ip = peers, ip
        self.token = SharedToken(token_file)
        self.admin = Admin(
            Metrics(), CallerUsage(dict), str, self.replication, lambda: json.dumps(QUEUE).encode(), self.token
        )
        self.garbage = b""
        self.rounds = self.answered = 0

    async def _resolve(self, _: str) -> set[str]:
        self.rounds += 1
        return {f"{ip}:{PORT}" for ip in self.peers}

    async def __call__(self, request: Request, writer: ResponseWriter) -> None:
        self.answered += 1
        if self.garbage:
            writer.whole(200, self.garbage)
        else:
            await self.admin(request, writer)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Replica]:
        server = Server(self)
        await server.listen(bind(self.ip, PORT))
        async with aiohttp.ClientSession() as client:
            following = asyncio.create_task(self.replication.follow("gateways:1", client, self.token))
            try:
                yield self
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await server.close(0)

    def use(self, tokens: int) -> None:
        with self.quota.reserved(ALICE, tokens, TokenUsage(output=tokens, exact=True)):
            pass


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "EVERY_S", 0.05)
    monkeypatch.setattr(replication, "_BELIEVED_S", 0.5)
    monkeypatch.setattr(replication, "_ANSWER_S", 30.0)  # all of them stand still together with this process


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shared_token, "_REMEMBERED_S", 0.02)
    file = tmp_path / "token"
    file.write_bytes(TOKEN + b"\n")
    return file


async def test_budgets_and_places_hold_over_all_gateways_and_outlive_a_restart(fast: None, token_file: Path) -> None:
    addresses = [free_address(), free_address()]
    async with Replica("two", addresses, addresses[1], token_file).running() as two:
        async with Replica("one", addresses, addresses[0], token_file).running() as one:
            one.use(300)
            two.use(200)
            await soon(
                lambda: one.quota.used(ALICE.accounts[0]) == two.quota.used(ALICE.accounts[0]) == 500, "both know both"
            )
            with one.quota.reserved(ALICE, 400, TokenUsage()):
                await soon(lambda: two.quota.held("alice").tokens == 400, "reservations are known, too")
                with pytest.raises(ApiError) as refused:
                    two.use(101)
                assert refused.value.code == "insufficient_quota"
            await soon(lambda: two.quota.held("alice").tokens == 0, "and their end")
        async with Replica("one-again", addresses, addresses[0], token_file).running() as one:
            await soon(lambda: one.quota.used(ALICE.accounts[0]) == 500, "the restarted one knows")
            one.use(7)
            await soon(lambda: two.quota.used(ALICE.accounts[0]) == 507, "and counts on")


async def test_what_a_gateway_held_when_it_died_is_given_back_soon(fast: None, token_file: Path) -> None:
    addresses = [free_address(), free_address()]
    async with Replica("two", addresses, addresses[1], token_file).running() as two:
        async with Replica("one", addresses, addresses[0], token_file).running() as one:
            held = one.quota.reserved(ALICE, 1000, TokenUsage())
            held.__enter__()
            await soon(lambda: two.quota.held("alice").tokens == 1000, "it is known")
        await soon(lambda: two.quota.held("alice").tokens == 0, "it is given back", 3)
        two.use(1000)


@pytest.mark.parametrize(
    "garbage",
    [b"no json", b"[]", b'{"replica": "x", "version": 1, "counts": [[1]], "open": {}}',
     b'{"replica": "x", "version": "y", "counts": [], "open": {}}',
     b'{"replica": "x", "version": 1, "counts": [], "open": {"alice": [1]}}'],
)  # fmt: skip
async def test_nonsense_of_a_peer_changes_nothing(fast: None, token_file: Path, garbage: bytes) -> None:
    addresses = [free_address(), free_address()]
    one, two = Replica("one", addresses, addresses[0], token_file), Replica("two", [], addresses[1], token_file)
    two.garbage = garbage
    async with one.running(), two.running():
        await soon(lambda: two.answered >= 3, "it got nonsense")
        assert len(one.counters) == 0 and one.quota.peers == {}
        two.garbage = b""
        two.use(5)
        await soon(lambda: one.quota.used(ALICE.accounts[0]) == 5, "it keeps asking")


def test_only_what_changed_is_reported_to_those_who_asked_before() -> None:
    counters = Counters("one")
    asked = CounterReplication(counters, QuotaEnforcer(counters, time.time))
    counters.add("alice", "total", charged=1)
    first = json.loads(asked.answer(b""))
    counters.add("bob", "total", charged=1)
    second = json.loads(asked.answer(f"since=one:{first['version']}".encode()))
    assert [row[1] for row in first["counts"]] == ["alice"] and [row[1] for row in second["counts"]] == ["bob"]
    for stranger in (b"since=other:1", b"since=one:x", b"since=", b"since=one:%FF", b"since=one:" + b"9" * 50):
        assert len(json.loads(asked.answer(stranger))["counts"]) == 2


def rewrite(file: Path, content: bytes | None) -> None:
    """Replace or remove the file, and wait until nobody remembers what it had."""
    file.write_bytes(content) if content is not None else file.unlink()
    time.sleep(0.03)


async def test_usage_is_given_to_those_alone_who_know_the_token_as_it_is_now(token_file: Path) -> None:
    asked = Replica("one", [], free_address(), token_file)
    url, right = f"http://{asked.ip}:{PORT}/usage", {"Authorization": "Bearer a token that all gateways have"}
    asked.use(5)
    async with asked.running(), aiohttp.ClientSession() as client:

        async def status(headers: dict[str, str]) -> int:
            async with client.get(url, headers=headers) as answer:
                assert (b"alice" in await answer.read()) is (answer.status == 200)
                return answer.status

        assert await status(right) == 200
        for wrong in ("", "Bearer", "Bearer ", "Bearer a token", "Basic a token that all gateways have", "Bearer \xff"):
            assert await status({"Authorization": wrong} if wrong else {}) == 401
        rewrite(token_file, b"a new one")
        assert await status(right) == 401
        assert await status({"Authorization": "Bearer a new one"}) == 200
        for unusable in (b"", b" \n", b"two\nlines", b"\xff"):
            rewrite(token_file, unusable)
            assert [await status({"Authorization": shown}) for shown in ("Bearer ", "Bearer two")] == [401, 401]
        rewrite(token_file, None)
        assert await status({"Authorization": "Bearer a new one"}) == 401


@pytest.mark.parametrize("route", ["usage", "queue"])
async def test_without_a_token_nobody_gets_it_and_the_answer_says_what_to_set(route: str) -> None:
    asked = Replica("one", [], free_address(), None)
    async with asked.running(), aiohttp.ClientSession() as client:
        for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Bearer x"}):
            async with client.get(f"http://{asked.ip}:{PORT}/{route}", headers=headers) as answer:
                assert answer.status == 404 and "--shared-token-file" in await answer.text()


async def test_the_queue_is_given_to_those_who_know_the_token(token_file: Path) -> None:
    asked = Replica("one", [], free_address(), token_file)
    url = f"http://{asked.ip}:{PORT}/queue"
    async with asked.running(), aiohttp.ClientSession() as client:
        async with client.get(url, headers={"Authorization": f"Bearer {TOKEN.decode()}"}) as answer:
            assert (answer.status, await answer.json()) == (200, QUEUE)
        async with client.get(url, headers={"Authorization": "Bearer x"}) as answer:
            assert answer.status == 401 and "ns/m" not in await answer.text()


async def test_gateways_keep_adding_up_after_the_token_was_replaced(fast: None, token_file: Path) -> None:
    addresses = [free_address(), free_address()]
    late = token_file.with_name("late")  # the file of a pod that gets the token last
    late.write_text("an older token")
    one, two = (Replica(name, addresses, ip, file) for name, ip, file in zip(
        ("one", "two"), addresses, (token_file, late), strict=True))  # fmt: skip
    async with one.running(), two.running():
        two.use(200)
        await soon(lambda: two.answered >= 3, "it was refused")
        assert one.quota.used(ALICE.accounts[0]) == 0
        rewrite(late, TOKEN)
        await soon(lambda: one.quota.used(ALICE.accounts[0]) == 200, "what was missed is made up for")


async def test_gateways_that_are_away_are_named_once_each(
    fast: None, token_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    addresses = [free_address(), free_address(), free_address()]
    with caplog.at_level(logging.WARNING):
        async with Replica("one", addresses, addresses[0], token_file).running() as one:
            await soon(lambda: one.rounds >= 5, "they were asked again and again")
    assert len(caplog.messages) == 2 and all(any(ip in line for line in caplog.messages) for ip in addresses[1:])
    assert "a token" not in caplog.text
