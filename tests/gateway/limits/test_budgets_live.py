"""Budgets to the token: two engines and a thousand clients keep accounts of their own, and the gateway's must agree."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.lab.clients import PATHS, Client, a_mix
from gateway.lab.scripted import Reported, Script, ScriptedEngine
from gateway.lab.stage import SECRET, SHARED_TOKEN, SYSTEM, Gateway, Stage, hashed, soon
from topmast_gateway.limits import periods

KEYS = {"monthly": "tm-" + "o" * 40, "lifelong": "tm-" + "f" * 40}
BUDGET = 250_000
AT_ONCE = 80
MODELS = 8  # an engine that often breaks is ejected for a while, but only for that model


@dataclass(frozen=True)
class Accounts:
    """What a gateway says of its keys, wherever it says it. `reported` is what engines have reported."""

    gateway: Gateway
    log: Path
    reported: dict[str, Reported]
    began: float = field(default_factory=time.time)

    def lines(self) -> dict[str, dict[str, Any]]:
        """The requests' own lines of the usage log, by request id."""
        lines = [line for line in self._written() if line["finish"] != "open"]
        by_id = {line["request"]: line for line in lines}
        assert len(by_id) == len(lines)
        return by_id

    def _written(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def used(self, name: str) -> set[int]:
        """Tokens of a key by the log, the metrics, the budget's counts and the minutes': one number, if all agree."""
        logged = sum(line["charged"] for line in self._written() if line["caller"] == name)
        series = "topmast_gateway_tokens_total"
        metric = sum(self.gateway.metric(series, caller=name, kind=kind) for kind in ("prompt", "output"))
        minutes = budget = 0
        for _, caller, period, _, charged, refunded in self.gateway.usage()["counts"]:
            if caller == name and ":" in period:
                minutes += charged - refunded
            elif caller == name and len(period) == len("2027-01"):  # of the month; others are beside it
                budget += charged - refunded
        if time.time() - self.began > periods.MINUTE_S:  # on a slow machine: only this minute and the last are kept
            minutes = budget
        return {logged, int(metric), budget, minutes}

    def reserved(self) -> dict[str, Any]:
        """What unfinished requests hold, by key, and whatever else counts them."""
        gauges = ("requests_in_flight", "queue_requests", "tokens_in_flight", "pod_requests_in_flight")
        counts = {gauge: self.gateway.metric(f"topmast_gateway_{gauge}") for gauge in gauges}
        return {name: held for name, held in (counts | self.gateway.usage()["open"]).items() if held}


@pytest.fixture
def allow(stage: Stage) -> Iterator[Callable[..., None]]:
    """Sets the budgets of the keys."""

    def allow(**budgets: int) -> None:
        data = {}
        for name, tokens in budgets.items():
            limits = {"budgetTokens": tokens, "budgetPeriod": "month" if name == "monthly" else "total"}
            data[name] = json.dumps({"hash": hashed(KEYS[name]), **limits, "tokensPerMinute": 10**9})
        stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"stringData": data})

    yield allow
    stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"data": dict.fromkeys(KEYS)})


@pytest.fixture
async def accounts(
    stage: Stage, new_gateway: Callable[..., Gateway], allow: Callable[..., None], namespace: str, tmp_path: Path
) -> AsyncIterator[Accounts]:
    """A gateway of its own in front of two engines, which serve all models."""
    allow(**dict.fromkeys(KEYS, BUDGET))
    log, reported = tmp_path / "usage.jsonl", dict[str, Reported]()
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(ScriptedEngine(reported)) for _ in range(2)]
        for number in range(MODELS):
            stage.model(namespace, f"m{number}")
            for engine in engines:
                stage.pod(namespace, f"m{number}", engine.ip)
        token = tmp_path / "token"
        token.write_text(SHARED_TOKEN)
        # What makes an answer move is in its script alone, not in a machine that stands still.
        flags = ("--usage-log", str(log), "--shared-token-file", str(token), "--silence-s", "60")
        gateway = (await asyncio.to_thread(new_gateway, *flags)).wait_ready()
        for number in range(MODELS):
            await asyncio.to_thread(gateway.sees, f"{namespace}/m{number}", 2)
        yield Accounts(gateway, log, reported)
        gateway.close()


@pytest.fixture
async def http(accounts: Accounts) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(accounts.gateway.url, connector=aiohttp.TCPConnector(limit=0)) as http:
        yield http


async def test_budgets_are_exact_to_the_token_over_1000_mixed_requests_with_cancels(
    accounts: Accounts, allow: Callable[..., None], namespace: str, http: aiohttp.ClientSession
) -> None:
    clients = a_mix(10, list(KEYS.values()), [f"{namespace}/m{number}" for number in range(MODELS)])
    assert len(clients) == 1000
    await _all_ask(clients, accounts, http)
    lines, reported = accounts.lines(), accounts.reported
    exact = 0
    for client in clients:
        line = lines.get(client.id)
        _check_end(client, line)
        least, most = _bounds(client, reported.get(client.id))
        assert least <= (line["prompt"] + line["output"] if line else 0) <= most, (
            client,
            reported.get(client.id),
            line,
        )
        exact += least == most
    assert exact > 800  # and of the others no more is known than the gateway can have read
    assert sum(len(set(reported[client.id].engines)) == 2 for client in clients if client.id in reported) > 75
    used = {}
    for name, key in KEYS.items():
        ((used[name],),) = [accounts.used(name)]
        bounds = [_bounds(client, reported.get(client.id)) for client in clients if client.key == key]
        assert sum(least for least, _ in bounds) <= used[name] <= sum(most for _, most in bounds)
    await _spend_the_last_bit(accounts, allow, http, f"{namespace}/m0", used)


async def _all_ask(clients: list[Client], accounts: Accounts, http: aiohttp.ClientSession) -> None:
    """Return when all have ended and everything is written down, with nothing reserved any more."""
    places = asyncio.Semaphore(AT_ONCE)

    async def ask(client: Client) -> None:
        async with places:
            await client.ask(http, accounts.reported)

    await asyncio.gather(*map(ask, clients))
    await soon(lambda: accounts.reserved() == {}, "nothing is reserved")
    counted = "topmast_gateway_caller_requests_total"
    await soon(lambda: len(accounts.lines()) == accounts.gateway.metric(counted), "every request is in the log")


def _check_end(client: Client, line: dict[str, Any] | None) -> None:
    """What the gateway says of how a request ended, against what its client saw."""
    if client.kind == "turned away" or line is None:
        assert line is None and client.kind in ("turned away", "at once"), client
        return
    charged, finish = line["prompt"] + line["output"], line["finish"]
    assert 0 <= line["charged"] <= charged and (line["exact"] or not charged)
    assert charged == 0 or line["prompt"] == client.script.prompt
    match client.kind:
        case "answered" | "moved":
            assert client.usage == {"prompt_tokens": line["prompt"], "completion_tokens": line["output"]}
            assert (finish, line["status"], line["cached"]) == ("answered", 200, client.script.cached)
            assert client.seen == line["output"]
        case "failed" | "refused":
            assert finish == "failed" and client.usage is None
        case "unaffordable":
            assert (finish, client.status) == ("refused", 429)
        case "early" | "held" | "moved, held":
            assert (finish, line["status"]) == ("cancelled", 499)
        case _:  # the answer may have been quicker
            assert finish in ("cancelled", "answered")


def _bounds(client: Client, reported: Reported | None) -> tuple[int, int]:
    """What the request must have been charged at least and at most, as its client and the engines know."""
    script = client.script
    if reported is None or script.status != 200:
        return 0, 0
    if script.fail is not None:
        return (script.prompt + script.tokens(script.fail),) * 2
    return script.prompt + client.seen if client.seen else 0, script.prompt + reported.tokens


async def _spend_the_last_bit(
    accounts: Accounts, allow: Callable[..., None], http: aiohttp.ClientSession, model: str, used: dict[str, int]
) -> None:
    """A reservation of all that is left is admitted, one token more is not; and what is charged is what was used."""
    left, script = 5000, Script(9, (1, 2, 3))
    allow(**{name: tokens + left for name, tokens in used.items()})
    for name, key in KEYS.items():

        async def ask(max_tokens: int, key: str = key, **fields: int) -> tuple[int, dict[str, int], str]:
            body = {"model": model, "prompt": "", "stream": False, "script": asdict(script), "max_tokens": max_tokens}
            headers = {"Authorization": f"Bearer {key}"}
            async with http.post(PATHS[1], json=body | fields, headers=headers) as answer:
                reported = {each: int(answer.headers[f"x-ratelimit-{each}-budget"]) for each in ("limit", "remaining")}
                return answer.status, reported, await answer.text()

        for _ in range(200):  # until the new budget is known
            if (await ask(32_768, n=8))[1]["limit"] != BUDGET:
                break
            await asyncio.sleep(0.05)
        status, reported, why = await ask(9000)
        assert (status, reported) == (
            429,
            {"limit": used[name] + left, "remaining": left},
        ) and f"{left} are left" in why
        needed = re.search(r"needs about (\d+)", why)
        assert needed is not None
        fits = left - (int(needed[1]) - 9000)
        assert (await ask(fits + 1))[0] == 429
        assert (await ask(fits))[:2] == (200, {"limit": used[name] + left, "remaining": 0})
        assert (await ask(9000))[1]["remaining"] == left - script.prompt - script.tokens()
        spent = used[name] + script.prompt + script.tokens()
        await soon(lambda name=name, spent=spent: accounts.used(name) == {spent}, "all accounts know the last one")
