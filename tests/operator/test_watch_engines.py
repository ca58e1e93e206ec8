"""Engines are asked for their state: silent ones cost nobody else anything, and what is heard is kept with its age."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from operatorlab import facts

from topmast_operator.api.facts import Facts, PodFacts
from topmast_operator.watch import engines as poller
from topmast_operator.watch.engines import Engines

pytestmark = pytest.mark.alone
SILENT = 64


@dataclass
class Engine:
    """A real server at an address of its own; without a state it takes connections and says nothing."""

    ip: str
    state: dict[str, Any] | None = None
    status: int = 200
    questions: list[float] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.questions.append(time.monotonic())
                self.headers.append(head.decode())
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                if self.state is None:
                    await reader.read()  # until the other side gives up
                else:
                    body = json.dumps(self.state).encode()
                    head = b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                    head %= self.status, len(body)
                    writer.write(head + body)
                    await writer.drain()
                self.at_once -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def asking(
    *fleet: Engine, authorise: Callable[[str, str], str | None] | None = None
) -> AsyncIterator[tuple[Engines, list[str]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    servers = [await asyncio.start_server(engine.serve, engine.ip, port) for engine in fleet]
    woken: list[str] = []
    engines = Engines(lambda _, model: woken.append(model), port, authorise)
    running = asyncio.create_task(engines.run())
    try:
        yield engines, woken
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for server in servers:
            server.close()


def told(name: str, *engines: Engine, ready: bool = True) -> Facts:
    model = replace(facts.model(), name=name)
    pods: list[PodFacts] = [
        facts.pod(facts.model(), number, ip=engine.ip, ready=ready, name=f"{name}-{number}")
        for number, engine in enumerate(engines)
    ]
    return Facts(model, facts.NOW, pods=tuple(pods))


def state(phase: str = "ready", **parts: Any) -> dict[str, Any]:
    return {"phase": phase, **parts}


async def test_silent_pods_cost_nobody_a_second_and_pile_up_nothing() -> None:
    """Frozen engines, lost nodes, a network policy that drops: each used to add tasks for ever."""
    silent = [Engine(f"127.0.88.{number}") for number in range(1, SILENT + 1)]
    healthy = Engine("127.0.89.1", state("loading"))
    async with asking(*silent, healthy) as (engines, _):
        idle = len(asyncio.all_tasks())
        engines.track(told("silent", *silent, ready=False))
        await asyncio.sleep(0.1)
        engines.track(told("well", healthy, ready=False))
        most = 0
        for _ in range(80):
            await asyncio.sleep(0.1)
            most = max(most, sum("Engines._ask" in repr(task) for task in asyncio.all_tasks()))
        asked = [len(engine.questions) for engine in silent]
        pauses = [later - earlier for earlier, later in zip(healthy.questions, healthy.questions[1:], strict=False)]
        assert 0 < most <= SILENT + 1 and idle < 10
    assert len(healthy.questions) >= 6 and max(pauses) < poller.STARTING_EVERY_S + 1, pauses
    assert max(asked) <= 3, "ever more rarely"
    assert all(engine.most_at_once == 1 for engine in silent), "one question at a time"


async def test_pods_beyond_the_slots_for_silent_ones_wait_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "AT_ONCE", 6)
    monkeypatch.setattr(poller, "AT_ONCE_SILENT", 4)
    healthy = Engine("127.0.89.1", state("loading"))
    silent = [Engine(f"127.0.88.{number}") for number in range(1, 21)]
    async with asking(healthy, *silent) as (engines, _):
        engines.track(told("well", healthy, ready=False))
        await asyncio.sleep(0.2)
        engines.track(told("silent", *silent, ready=False))
        await asyncio.sleep(5)
        pauses = [later - earlier for earlier, later in zip(healthy.questions, healthy.questions[1:], strict=False)]
        assert len(pauses) >= 3 and max(pauses) < poller.STARTING_EVERY_S + 0.7, pauses
        assert 4 <= sum(len(engine.questions) for engine in silent) <= 16, "four at a time, two seconds each"


async def test_a_pod_that_answers_again_is_asked_as_often_as_before() -> None:
    engine = Engine("127.0.88.1")
    async with asking(engine) as (engines, woken):
        engines.track(told("m", engine, ready=False))
        await asyncio.sleep(0.3)
        engine.state = state("loading")
        started = time.monotonic()
        while not engines.states("ns", "m"):
            await asyncio.sleep(0.05)
            assert time.monotonic() - started < 6
        questions = len(engine.questions)
        await asyncio.sleep(2.5)
        assert len(engine.questions) >= questions + 2 and woken[0] == "m"


async def test_a_load_that_stands_still_is_measured() -> None:
    engine = Engine("127.0.88.1", state("loading", load={"bytes_done": 40, "bytes_total": 100}))
    async with asking(engine) as (engines, woken):
        engines.track(told("m", engine, ready=False))
        await asyncio.sleep(2.6)
        assert engines.states("ns", "m")["m-0"].still_s > 2 and woken == ["m"], "nothing new, nobody woken"
        engine.state = state("loading", load={"bytes_done": 60, "bytes_total": 100})
        await asyncio.sleep(1.3)
        assert engines.states("ns", "m")["m-0"].still_s < 1.3 and woken == ["m", "m"]


async def test_nonsense_of_an_engine_is_silence_and_ends_nothing() -> None:
    wrong = [[], {"phase": "ready", "load": {"bytes_done": "x", "bytes_total": "y"}}, {"phase": "ready", "work": 5}]
    fleet = [Engine(f"127.0.88.{number}", body) for number, body in enumerate(wrong, 1)]  # type: ignore[arg-type]
    well = Engine("127.0.89.1", state("loading"))
    async with asking(*fleet, well) as (engines, _):
        engines.track(told("m", *fleet, well, ready=False))
        await asyncio.sleep(1.5)
        assert len(well.questions) >= 2 and all(engine.questions for engine in fleet)


async def test_a_token_is_sent_where_one_is_known_and_a_forgotten_pod_is_asked_no_more() -> None:
    one, other = Engine("127.0.88.1", state()), Engine("127.0.88.2", state())
    tokens = {"one": "Bearer abc"}
    async with asking(one, other, authorise=lambda _, model: tokens.get(model)) as (engines, _):
        engines.track(told("one", one, ready=False))
        engines.track(told("other", other, ready=False))
        await asyncio.sleep(0.3)
        assert "Authorization: Bearer abc" in one.headers[0] and "Authorization" not in other.headers[0]
        engines.track(told("one"))
        engines.forget("ns", "other")
        seen = len(one.questions) + len(other.questions)
        await asyncio.sleep(1.5)
        assert len(one.questions) + len(other.questions) == seen
        assert engines.states("ns", "one") == engines.states("ns", "other") == {}


async def test_an_engine_that_refuses_the_operator_is_silent_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that has not got there yet, or clocks apart: its state is unknown, and its model is not judged by it."""
    monkeypatch.setattr(poller, "LONGEST_PAUSE_S", 0.05)
    refusing = Engine("127.0.89.1", {"error": {"message": "the token has expired"}}, status=401)
    async with asking(refusing, authorise=lambda *_: "Bearer stale") as (engines, woken):
        engines.track(told("m", refusing))
        await asyncio.sleep(1)
        assert len(refusing.questions) >= 3
        assert engines.states("ns", "m") == {} and woken == []
        (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert "ns/m-0 refuses the operator's questions" in said and "the token has expired" in said
        assert "m-access" in said and "stale" not in said
        refusing.status, refusing.state = 200, state()
        await asyncio.sleep(1)
        assert engines.states("ns", "m")["m-0"].phase == "ready"


async def test_after_a_start_a_first_answer_is_waited_for_and_no_longer_than_it_can_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(poller, "FIRST_ANSWER_S", 60.0)
    talks, mute = Engine("127.0.97.1", state()), Engine("127.0.97.2")
    namespace = facts.model().namespace
    async with asking(talks, mute) as (engines, woken):
        engines.track(told("talks", talks))
        engines.track(told("mute", mute))
        assert not engines.introduced(namespace, "talks") and not engines.introduced(namespace, "mute")
        assert engines.introduced(namespace, "without-pods")
        for _ in range(200):
            if "talks" in woken:
                break
            await asyncio.sleep(0.05)
        assert engines.introduced(namespace, "talks") and not engines.introduced(namespace, "mute")
        monkeypatch.setattr(poller, "FIRST_ANSWER_S", 0.0)
        assert engines.introduced(namespace, "mute") and "mute" not in woken
