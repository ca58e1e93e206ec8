"""Engines with closed doors: the gateway shows a token of its own, and clients never learn that there is one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
import openai
import pytest
from aiohttp import web

from engine_keys import new_pem, replace, write_access
from gateway.lab.engines import Engine, free_address
from gateway.lab.served import Served, two_engines
from gateway.lab.stage import KEY, Gateway, Stage, eventually, soon
from topmast_access.rules import parse_rules
from topmast_access.signing import EngineTokens, SigningKey
from topmast_access.terms import GATEWAY
from topmast_access.verifying import Verifier
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.load_scraper import LoadScraper
from topmast_gateway.routing.model_table import Pod

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "What is the capital of Japan?"}]


@dataclass
class Signing:
    """A gateway with a key pair of its own."""

    gateway: Gateway
    pem: Path

    @property
    def key(self) -> SigningKey:
        return SigningKey(self.pem.read_bytes())

    def verify(self, header: str, model: str) -> None:
        """Fails where the header is no token of this gateway for the model."""
        rules = parse_rules(json.dumps({"keys": [dict(self.key.public_jwk)]}).encode())
        Verifier(model).check(header.removeprefix("Bearer "), rules)


@pytest.fixture(scope="module")
def signing(new_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory) -> Signing:
    """One that waits three seconds for a pod."""
    folder = tmp_path_factory.mktemp("signing")
    pem = folder / "key.pem"
    pem.write_bytes(new_pem())
    flags = ("--signing-key", str(pem), "--hold-s", "3", "--access-log", str(folder / "access.jsonl"))
    return Signing(new_gateway(*flags).wait_ready(), pem)


@pytest.fixture
async def signed(signing: Signing) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=signing.gateway.url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def closed(signing: Signing, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    """Two real engines that let in this gateway and nobody else."""
    folder = tmp_path_factory.mktemp("closed")
    access = write_access(folder / "access.json", signing.key)
    flags = ("--access-file", str(access), "--access-audience", "closed/smollm2")
    with two_engines(folder, "smollm2", "closed/smollm2", flags=flags) as served:
        yield served


def test_closed_engines_answer_through_their_gateway_and_not_beside_it(
    stage: Stage, signing: Signing, closed: list[Served]
) -> None:
    stage.namespace("closed")
    stage.model("closed", "smollm2")
    engine_of = {stage.pod("closed", "smollm2", engine.ip).name: engine for engine in closed}
    gateway = signing.gateway
    gateway.sees("closed/smollm2", 2)
    asked = {"model": "closed/smollm2", "messages": MESSAGES, "temperature": 0, "max_tokens": 8}
    for port in (8000, 8001):
        for headers in ({}, {"Authorization": f"Bearer {KEY}"}):
            answer = httpx.post(f"http://{closed[0].ip}:{port}{CHAT}", json=asked, headers=headers)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_engine_token"
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as through:
        whole = through.chat.completions.create(**asked)  # type: ignore[call-overload]
        stream = through.chat.completions.create(stream=True, **asked)  # type: ignore[call-overload]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    eventually(lambda: gateway.metric("topmast_gateway_tokens_in_flight", model="closed/smollm2") == 0, "all is done")
    refused = [line for line in gateway.lines if "does not report its load" in line]
    assert not [line for line in refused if any(name in line for name in engine_of)], "it may scrape them"
    # The other one must take the token for the rest of an answer, too.
    asked |= {"max_tokens": 60, "ignore_eos": True}
    with (
        stage.debug_key(gateway) as debugger,
        httpx.Client(base_url=gateway.url, timeout=60, trust_env=False) as client,
    ):
        client.headers.update({"Authorization": f"Bearer {debugger}", "X-Topmast-Debug": "1"})
        expected = client.post(CHAT, json=asked).json()["choices"][0]["message"]["content"]
        with client.stream("POST", CHAT, json={**asked, "stream": True}) as answer:
            pod = answer.headers["x-topmast-route"].split(";")[0]
            engine_of[pod].process.kill()
            events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {")]
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == expected
    assert gateway.metric("topmast_gateway_moves_total", model="closed/smollm2") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_engines_are_shown_the_gateways_token_and_never_the_callers_key(
    stage: Stage, signing: Signing, signed: httpx.AsyncClient, namespace: str, stream: bool
) -> None:
    async with Engine() as engine:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        signing.gateway.sees(f"{namespace}/m", 1)
        # Nor by other names for the same.
        more = {
            "X-Api-Key": KEY,
            "Proxy-Authorization": f"Bearer {KEY}",
            "Cookie": f"key={KEY}",
            "X-Topmast-Debug": "1",
        }
        answer = await signed.post(CHAT, json={"model": f"{namespace}/m", "stream": stream}, headers=more)
        assert answer.status_code == 200
        (headers,) = engine.headers
        signing.verify(headers["authorization"], f"{namespace}/m")
        assert not any(KEY in value for value in headers.values())
        token = headers["authorization"].removeprefix("Bearer ")
        reported = [answer.text, *answer.headers.values(), *signing.gateway.lines]
        reported += [(signing.pem.parent / "access.jsonl").read_text()]
        assert not any(token in text for text in reported), "the token stays between gateway and engine"


async def test_without_a_key_nothing_is_shown(
    stage: Stage, gateway: Gateway, http: httpx.AsyncClient, namespace: str
) -> None:
    async with Engine() as engine:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        assert (await http.post(CHAT, json={"model": f"{namespace}/m"})).status_code == 200
        assert "authorization" not in engine.headers[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_pod_that_does_not_let_us_in_is_one_that_is_not_ready(
    stage: Stage, signing: Signing, signed: httpx.AsyncClient, namespace: str, stream: bool
) -> None:
    async with Engine("invalid_engine_token") as shut, Engine() as good:
        key = f"{namespace}/m"
        stage.model(namespace, "m")
        shut_pod = stage.pod(namespace, "m", shut.ip)
        stage.pod(namespace, "m", good.ip)
        signing.gateway.sees(key, 2)
        while shut.asked < 3:  # it is avoided for a second each time
            answer = await signed.post(CHAT, json={"model": key, "stream": stream})
            assert answer.status_code == 200
        assert signing.gateway.metric("topmast_gateway_retries_total", model=key, kind="not_let_in") == shut.asked
        lines = [line for line in signing.gateway.lines if "does not let this gateway in" in line and key in line]
        assert len(lines) == 1, "once for each pod"
        assert shut_pod.name in lines[0] and "--signing-key" in lines[0] and "access file" in lines[0]
        assert signing.gateway.metric("topmast_gateway_ejected_pods", model=key) == 0


async def test_a_caller_never_hears_that_his_key_is_wrong_where_ours_is(
    stage: Stage, signing: Signing, signed: httpx.AsyncClient, namespace: str
) -> None:
    key = f"{namespace}/m"
    stage.model(namespace, "m")
    async with Engine("invalid_engine_token") as shut:
        stage.pod(namespace, "m", shut.ip)
        signing.gateway.sees(key, 1)
        answer = await signed.post(CHAT, json={"model": key})
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "no_ready_pod"
        assert shut.asked > 1, "it was asked again: keys change"
        shut.mode = "stream"
        assert (await signed.post(CHAT, json={"model": key})).status_code == 200
        shut.mode = "other_401"  # of an engine that is not ours
        assert (await signed.post(CHAT, json={"model": key})).status_code == 401


async def test_a_new_signing_key_is_used_without_a_restart(
    stage: Stage, signing: Signing, signed: httpx.AsyncClient, namespace: str
) -> None:
    async with Engine() as engine:
        key, before = f"{namespace}/m", signing.key.kid
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        signing.gateway.sees(key, 1)
        replace(signing.pem, b"not a key")
        await signed.post(CHAT, json={"model": key})
        replace(signing.pem, new_pem())
        assert signing.key.kid != before
        deadline = time.monotonic() + 30
        while True:
            await signed.post(CHAT, json={"model": key})
            try:
                signing.verify(engine.headers[-1]["authorization"], key)
                break
            except Exception:
                assert time.monotonic() < deadline


def test_a_signing_key_that_cannot_be_used_stops_the_start(tmp_path: Path, stage: Stage) -> None:
    with pytest.raises(AssertionError, match=r"cannot use --signing-key .*none\.pem: .*No such file"):
        Gateway(stage.kubeconfig, "--signing-key", str(tmp_path / "none.pem"))


async def test_metrics_are_asked_for_with_a_token(tmp_path: Path) -> None:
    pem = tmp_path / "key.pem"
    pem.write_bytes(new_pem())
    pod = Pod("1", "ns", "pod", "ns/m", f"{free_address()}:8000")
    shown: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        shown.append(request.headers.get("authorization", ""))
        return web.Response(text="vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n")

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, pod.address.split(":")[0], 8000).start()
    async with aiohttp.ClientSession() as client:
        tokens = EngineTokens(pem, GATEWAY)
        scraping = asyncio.create_task(LoadScraper(client, lambda: [pod], EndpointLoads(), tokens).follow())
        await soon(lambda: bool(shown), "a scrape")
        scraping.cancel()
    await runner.cleanup()
    assert shown[0] == tokens.header("ns/m")["authorization"]
