"""The operator asks gateways for their queues: real HTTP on loopback addresses, pods and labels by hand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from operatorlab.facts import NOW, model

from topmast_operator.act.client import ApiError
from topmast_operator.api.facts import Facts, Queue
from topmast_operator.watch import gateways as watched
from topmast_operator.watch.gateways import Gateways

TOKEN = "the token that all share"
SELECTOR = "app.kubernetes.io/component=gateway"
SCALED = Facts(model(autoscaling={"maxReplicas": 4}), NOW)
_ADDRESSES = (f"127.0.91.{number}" for number in itertools.count(1))


def told(requests: int) -> dict[str, Any]:
    """An answer of one gateway about ns/m."""
    waiting = {"requests": requests, "prompt_tokens": 100 * requests, "output_tokens": 10 * requests}
    gone = {"requests": 0, "prompt_tokens": 0, "output_tokens": 0}
    return {"replica": "r", "models": {"ns/m": {"waiting": waiting, "oldest_s": 1.0, "gone": gone}}}


@dataclass
class Pod:
    """A gateway: what it answers (JSON, bytes, or a status alone), and whether at all."""

    body: Any = field(default_factory=lambda: told(0))
    ready: bool = True
    leaving: bool = False
    ip: str = field(default_factory=lambda: next(_ADDRESSES))
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # closed: it takes a question and does not answer
    asked: int = 0
    open: int = 0
    most_open: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def name(self) -> str:
        return f"gateway-{self.ip}"

    def as_listed(self) -> dict[str, Any]:
        meta = {"name": self.name, "uid": self.ip} | (
            {"deletionTimestamp": "2026-01-01T00:00:00Z"} if self.leaving else {}
        )
        conditions = [{"type": "Ready", "status": "True" if self.ready else "False"}]
        return {"metadata": meta, "status": {"phase": "Running", "podIP": self.ip, "conditions": conditions}}

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self.gate.wait()
        finally:
            self.open -= 1
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        if isinstance(self.body, int):
            return web.Response(status=self.body)
        return web.Response(body=self.body) if isinstance(self.body, bytes) else web.json_response(self.body)


class FakeApi:
    """Lists the gateways' pods, or fails to."""

    def __init__(self, pods: list[Pod]) -> None:
        self.pods = pods
        self.fails = False
        self.asked: list[tuple[str, str]] = []

    async def list(self, path: str, selector: str = "") -> list[dict[str, Any]]:
        self.asked.append((path, selector))
        if self.fails:
            raise ApiError(403, "pods is forbidden")
        return [pod.as_listed() for pod in self.pods]


class Stage:
    """The poller among its gateways."""

    def __init__(self, pods: list[Pod], token_file: Path, selector: str = SELECTOR) -> None:
        self.api = FakeApi(pods)
        self.woken: list[tuple[str, str]] = []
        self.gateways = Gateways(
            self.api,  # type: ignore[arg-type]
            "topmast-system",
            selector,
            token_file,
            lambda namespace, name: self.woken.append((namespace, name)),
        )

    def queue(self, facts: Facts = SCALED) -> Queue | None:
        return self.gateways.add_queue(facts).queue

    async def until(self, check: Callable[[Queue], bool]) -> Queue:
        """The first queue of which that is true."""
        end = time.monotonic() + 10
        while True:
            found = self.queue()
            assert found is not None
            if check(found):
                return found
            assert time.monotonic() < end, found
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int) -> None:
    monkeypatch.setattr(watched, "PORT", unused_tcp_port)
    for name, seconds in {"EVERY_S": 0.05, "ROUND_S": 0.05, "FIND_EVERY_S": 0.2, "STALE_S": 0.4}.items():
        monkeypatch.setattr(watched, name, seconds)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    (file := tmp_path / "token").write_text(TOKEN + "\n")
    return file


def rewrite(file: Path, text: str | None) -> None:
    file.unlink() if text is None else file.write_text(text)


@contextlib.asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[Stage]:
    """All gateways listen, and the poller runs, until the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        for pod in stage.api.pods:
            app = web.Application()
            app.router.add_get("/queue", pod.answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, pod.ip, watched.PORT).start()
        polling = asyncio.create_task(stage.gateways.run())
        try:
            yield stage
            assert not polling.done() or not stage.gateways._selector
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)


async def test_what_waits_at_all_gateways_is_in_the_facts_and_wakes_the_model(token_file: Path) -> None:
    one, two = Pod(told(3)), Pod(told(4))
    async with running(Stage([one, two], token_file)) as stage:
        queue = stage.queue()
        assert queue and queue.unknown == "the gateways have not been asked yet"
        queue = await stage.until(lambda queue: queue.requests == 7)
        assert (queue.prompt_tokens, queue.output_tokens, queue.unknown) == (700, 70, "")
        assert set(stage.woken) == {("ns", "m")}
        assert set(stage.api.asked) == {("/api/v1/namespaces/topmast-system/pods", SELECTOR)}
        one.body = two.body = told(0)
        await stage.until(lambda queue: queue.requests == 0)
        woken = len(stage.woken)
        await asyncio.sleep(0.3)
        assert len(stage.woken) <= woken + 1


async def test_a_restarted_operator_waits_a_moment_for_the_first_answers(token_file: Path) -> None:
    async with running(Stage([Pod(told(3)), Pod(told(4))], token_file)) as stage:
        await stage.gateways.introduce(SCALED)
        queue = stage.queue()
        assert queue and (queue.requests, queue.unknown) == (7, "")
        other = replace(SCALED, model=replace(SCALED.model, name="another"))
        assert stage.queue(other) == Queue()


async def test_a_gateway_that_never_answers_makes_nobody_wait_for_long(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "FIRST_ANSWERS_S", 0.5)
    stage = Stage([], token_file)
    stage.api.fails = True
    async with running(stage):
        began = time.monotonic()
        for _ in range(20):
            await stage.gateways.introduce(SCALED)
        assert time.monotonic() - began < 5, "once for all models"
        queue = stage.queue()
        assert queue and "cannot be listed" in queue.unknown
    await stage.gateways.introduce(Facts(model(), NOW))  # no scaled model: nothing to wait for


async def test_a_silent_gateway_is_asked_one_question_delays_nobody_and_takes_nothing_away(token_file: Path) -> None:
    silent, other = Pod(told(5)), Pod(told(1))
    async with running(Stage([silent, other], token_file)) as stage:
        await stage.until(lambda queue: queue.requests == 6)
        silent.gate.clear()
        asked = other.asked
        queue = await stage.until(lambda queue: bool(queue.unknown))
        assert queue.unknown.startswith(f"1 of 2 gateways tells no queue ({silent.name}: no answer")
        assert other.asked > asked + 3 and silent.most_open == 1
        silent.gate.set()
        await stage.until(lambda queue: queue.requests == 6 and not queue.unknown)


async def test_gateways_that_start_or_leave_are_asked_and_may_be_silent(token_file: Path) -> None:
    starting, leaving, serving = Pod(ready=False), Pod(told(2), leaving=True), Pod(told(1))
    starting.gate.clear()
    async with running(Stage([starting, leaving, serving], token_file)) as stage:
        await stage.until(lambda queue: queue.requests == 3)
        leaving.gate.clear()
        await asyncio.sleep(0.6)
        assert starting.asked and stage.queue() and stage.queue().unknown == ""  # type: ignore[union-attr]
        starting.gate.set()
        leaving.gate.set()


async def test_a_pod_that_is_gone_takes_its_queue_along(token_file: Path) -> None:
    gone, other = Pod(told(2)), Pod(told(1))
    async with running(Stage([gone, other], token_file)) as stage:
        await stage.until(lambda queue: queue.requests == 3)
        stage.api.pods = [other]
        queue = await stage.until(lambda queue: queue.requests == 1)
        assert queue.unknown == ""


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (404, "older than this operator"),
        (503, "HTTP 503"),
        ([1, 2], "list"),
        ({"replica": "r", "models": {"ns/m": {"waiting": 3}}}, "subscriptable"),
        (b"not json", "Expecting value"),
    ],
)
async def test_an_answer_of_another_kind_is_named_and_ends_nothing(token_file: Path, body: Any, why: str) -> None:
    strange, other = Pod(), Pod(told(1))
    async with running(Stage([strange, other], token_file)) as stage:
        await stage.until(lambda queue: queue.requests == 1)
        strange.body = body
        assert why in (await stage.until(lambda queue: bool(queue.unknown))).unknown
        strange.body = told(2)
        await stage.until(lambda queue: queue.requests == 3 and not queue.unknown)


async def test_an_answer_without_end_is_given_up(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "LARGEST_BYTES", 1000)
    async with running(Stage([Pod({"models": "x" * 5000})], token_file)) as stage:
        assert "more than 1000 bytes" in (await stage.until(lambda queue: "bytes" in queue.unknown)).unknown


async def test_the_token_is_read_anew_for_every_round(token_file: Path) -> None:
    async with running(Stage([Pod(told(1))], token_file)) as stage:
        await stage.until(lambda queue: queue.requests == 1)
        rewrite(token_file, "another")
        assert "token is another one" in (await stage.until(lambda queue: bool(queue.unknown))).unknown
        rewrite(token_file, None)
        await asyncio.sleep(0.2)
        rewrite(token_file, TOKEN)
        await stage.until(lambda queue: queue.requests == 1 and not queue.unknown)


async def test_where_pods_cannot_be_listed_the_known_gateways_are_asked_on_and_the_reason_is_told(
    token_file: Path,
) -> None:
    pod = Pod(told(1))
    async with running(Stage([pod], token_file)) as stage:
        await stage.until(lambda queue: queue.requests == 1 and not queue.unknown)
        stage.api.fails = True
        queue = await stage.until(lambda queue: bool(queue.unknown))
        assert queue.unknown == "gateway pods cannot be listed in topmast-system: pods is forbidden"
        pod.body = told(2)
        await stage.until(lambda queue: queue.requests == 2)
        stage.api.fails = False
        await stage.until(lambda queue: not queue.unknown)


async def test_a_cluster_without_gateways_has_an_empty_queue(token_file: Path) -> None:
    async with running(Stage([], token_file)) as stage:
        assert (await stage.until(lambda queue: not queue.unknown)) == Queue()


async def test_nobody_is_asked_while_no_model_is_scaled(token_file: Path) -> None:
    pod = Pod(told(1))
    async with running(Stage([pod], token_file)) as stage:
        assert stage.queue(Facts(model(), NOW)) is None
        await asyncio.sleep(0.3)
        assert pod.asked == 0 and stage.api.asked == []
        await stage.until(lambda queue: queue.requests == 1)
        stage.gateways.forget("ns", "m")
        await asyncio.sleep(0.1)
        asked = pod.asked
        await asyncio.sleep(0.3)
        assert pod.asked == asked


async def test_without_a_selector_nobody_is_asked(token_file: Path) -> None:
    pod = Pod(told(1))
    async with running(Stage([pod], token_file, selector="")) as stage:
        assert stage.queue() is None
        await asyncio.sleep(0.2)
        assert pod.asked == 0 and stage.api.asked == []


def test_ipv6_addresses_are_put_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "PORT", 8081)
    assert watched._url("fd00::7") == "http://[fd00::7]:8081/queue"
    assert watched._url("10.1.2.3") == "http://10.1.2.3:8081/queue"
