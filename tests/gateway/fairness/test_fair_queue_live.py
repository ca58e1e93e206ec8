"""Fair shares as a client sees them: a real gateway in front of an engine with few places."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.lab.engines import Engine
from gateway.lab.journaling import JournalEngine
from gateway.lab.stage import KEY, SECRET, SHARED_TOKEN, SYSTEM, Gateway, Stage, hashed, soon

CHAT = "/v1/chat/completions"
NOISY, LIMITED, METERED = ("tm-" + letter * 40 for letter in "nlm")
PLACES = 4


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("usage") / "usage.jsonl"


@pytest.fixture(scope="module")
def narrow(stage: Stage, new_gateway: Callable[..., Gateway], log: Path) -> Iterator[Gateway]:
    """A gateway that lets few requests through to a pod, and knows two keys."""
    limits = {"requestsPerMinute": 3, "budgetTokens": 2000, "budgetPeriod": "day"}
    limited = json.dumps({"hash": hashed(LIMITED), **limits})
    metered = json.dumps({"hash": hashed(METERED), "budgetTokens": 1_000_000, "budgetPeriod": "total"})
    keys = {"noisy": hashed(NOISY), "limited": limited, "metered": metered}
    stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"stringData": keys})
    (token := log.with_name("token")).write_text(SHARED_TOKEN)
    flags = ("--requests-per-pod", str(PLACES), "--queue-requests", "50", "--queue-s", "20", "--usage-log", str(log))
    yield new_gateway(*flags, "--shared-token-file", str(token)).wait_ready()
    stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"data": dict.fromkeys(keys)})


@pytest.fixture
async def ask(narrow: Gateway) -> AsyncIterator[Callable[..., asyncio.Task[httpx.Response]]]:
    """Sends requests, to be awaited or cancelled."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=narrow.url, timeout=60, trust_env=False, limits=limits) as client:

        def send(key: str, model: str, **fields: object) -> asyncio.Task[httpx.Response]:
            headers = {"Authorization": f"Bearer {key}"}
            body = {"model": model, "user": key[3:8], **fields}
            return asyncio.create_task(client.post(CHAT, json=body, headers=headers))

        yield send


@pytest.fixture
async def engine(stage: Stage, narrow: Gateway, namespace: str) -> AsyncIterator[Engine]:
    async with Engine(pause_s=0.1) as engine:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        await asyncio.to_thread(narrow.sees, f"{namespace}/m", 1)
        yield engine


def queued(gateway: Gateway, model: str) -> float:
    """Requests that wait for their slot."""
    return gateway.metric("topmast_gateway_queue_requests", model=model)


async def test_a_quiet_key_is_served_before_the_backlog_of_a_noisy_one(
    narrow: Gateway, namespace: str, engine: Engine, ask: Callable[..., asyncio.Task[httpx.Response]]
) -> None:
    model = f"{namespace}/m"
    engine.gate.clear()
    noise = [ask(NOISY, model) for _ in range(40)]
    await soon(lambda: engine.running == PLACES, "the engine is busy with the noisy key")
    await soon(lambda: queued(narrow, model) == 40 - PLACES, "the others wait")
    quiet = ask(KEY, model)
    await soon(lambda: queued(narrow, model) == 41 - PLACES, "behind them the quiet one")
    engine.gate.set()
    assert (await quiet).status_code == 200
    place = next(number for number, body in enumerate(engine.bodies) if body["user"] == KEY[3:8])
    assert place <= 2 * PLACES
    assert {task.result().status_code for task in (await asyncio.wait(noise))[0]} == {200}
    assert engine.most_running <= PLACES


async def test_the_operator_sees_what_waits_and_what_went_away(
    narrow: Gateway, namespace: str, engine: Engine, ask: Callable[..., asyncio.Task[httpx.Response]]
) -> None:
    model = f"{namespace}/m"
    engine.gate.clear()
    tasks = [ask(NOISY, model, max_tokens=7) for _ in range(50 + PLACES)]
    await soon(lambda: queued(narrow, model) == 50, "the queue is full")
    refused = await ask(NOISY, model, max_tokens=7)
    assert refused.status_code == 503
    reported = narrow.queue()[model]
    assert (reported["waiting"]["requests"], reported["gone"]["requests"]) == (50, 1)
    assert reported["waiting"]["output_tokens"] == 50 * 7 and reported["waiting"]["prompt_tokens"] >= 50
    assert 0 <= reported["oldest_s"] < 60
    engine.gate.set()
    await asyncio.gather(*tasks)
    assert narrow.queue()[model]["waiting"]["requests"] == 0


async def test_a_full_queue_makes_way_for_a_key_below_its_share(
    narrow: Gateway, namespace: str, engine: Engine, ask: Callable[..., asyncio.Task[httpx.Response]]
) -> None:
    model = f"{namespace}/m"
    engine.gate.clear()
    noise = [ask(NOISY, model) for _ in range(70)]
    await soon(lambda: sum(task.done() for task in noise) == 70 - 50 - PLACES, "the queue is full")
    quiet = ask(KEY, model)
    await soon(lambda: sum(task.done() for task in noise) == 71 - 50 - PLACES, "one more of the noisy key has to go")
    engine.gate.set()
    assert (await quiet).status_code == 200
    answers = [await task for task in noise]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 17 and {answer.status_code for answer in refused} <= {429, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


async def test_clients_that_go_leave_the_queue_and_the_engine_never_sees_them(
    narrow: Gateway, namespace: str, engine: Engine, ask: Callable[..., asyncio.Task[httpx.Response]]
) -> None:
    model = f"{namespace}/m"
    engine.gate.clear()
    tasks = [ask(NOISY, model) for _ in range(20)]
    await soon(lambda: engine.running == PLACES, "all places are taken")
    await soon(lambda: queued(narrow, model) == 20 - PLACES, "the others wait")
    for task in tasks[PLACES:] + tasks[:PLACES]:  # no place becomes free before they have gone
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await soon(lambda: queued(narrow, model) == 0, "nobody waits", 2)
    assert engine.asked <= 2 * PLACES


async def test_a_key_hears_of_its_limits_and_openais_client_understands_them(
    narrow: Gateway, namespace: str, engine: Engine, ask: Callable[..., asyncio.Task[httpx.Response]]
) -> None:
    model = f"{namespace}/m"
    answer = await ask(LIMITED, model, max_tokens=10)
    assert answer.status_code == 200 and answer.headers["x-ratelimit-remaining-requests"] == "2"
    assert answer.headers["x-ratelimit-limit-budget"] == "2000"
    over = await ask(LIMITED, model, max_tokens=2000)
    assert over.status_code == 429 and over.json()["error"]["code"] == "insufficient_quota"
    for _ in range(2):
        assert (await ask(LIMITED, model, max_tokens=10)).status_code == 200
    async with openai.AsyncOpenAI(base_url=f"{narrow.url}/v1", api_key=LIMITED, max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as refused:
            await client.completions.create(model=model, prompt="hi", max_tokens=10)
    assert refused.value.code == "rate_limit_exceeded"
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 120
    reported = await asyncio.to_thread(narrow.usage)
    (charged,) = [row[4] for row in reported["counts"] if row[1] == "limited" and len(row[2]) == len("2026-01-31")]
    assert charged == narrow.metric("topmast_gateway_tokens_total", caller="limited") > 0


async def test_a_budget_is_exact_however_requests_end_and_wherever_answers_are_finished(
    stage: Stage, narrow: Gateway, namespace: str, log: Path, ask: Callable[..., asyncio.Task[httpx.Response]]
) -> None:
    model = f"{namespace}/mixed"
    async with JournalEngine("tear", pause_s=0.02) as torn, JournalEngine(pause_s=0.02) as sound:
        stage.model(namespace, "mixed")
        for engine in (torn, sound):
            stage.pod(namespace, "mixed", engine.ip)
        await asyncio.to_thread(narrow.sees, model, 2)
        tasks = [ask(METERED, model, stream=number % 2 == 0) for number in range(40)]
        await soon(lambda: torn.asked + sound.asked > 15, "some have started")
        for task in tasks[::5]:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)

    def written() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line["caller"] == "metered"]

    def logged() -> list[dict[str, Any]]:
        return [line for line in written() if line["finish"] != "open"]

    # Those who left before the gateway had read their request are in no log.
    await soon(lambda: narrow.metric("topmast_gateway_requests_in_flight") == 0, "all have ended")
    await soon(lambda: len(logged()) == narrow.metric("topmast_gateway_caller_requests_total", caller="metered"), "log")
    answered = [end for end in ends if isinstance(end, httpx.Response)]
    assert {end.status_code for end in answered} == {200} and len(answered) >= 32
    whole = {line["request"]: line["prompt"] + line["output"] for line in logged() if line["status"] == 200}
    # An answer may be whole at the gateway when its client goes without having read it.
    assert {end.headers["x-request-id"] for end in answered} <= set(whole)
    assert set(whole.values()) == {5 + sound.chunks}
    assert all(line["prompt"] + line["output"] <= 5 + sound.chunks for line in logged())
    reported = await asyncio.to_thread(narrow.usage)
    (charged,) = [row[4] for row in reported["counts"] if row[1:3] == ["metered", "total"]]
    assert charged == sum(line["charged"] for line in written()) and "metered" not in reported["open"]


async def test_an_answer_by_an_engine_without_a_journal_is_an_estimate_whoever_had_started_it(
    stage: Stage, narrow: Gateway, namespace: str, log: Path, ask: Callable[..., asyncio.Task[httpx.Response]]
) -> None:
    async with JournalEngine("tear", made=0) as torn, Engine() as old:
        stage.model(namespace, "m")
        for engine in (torn, old):
            stage.pod(namespace, "m", engine.ip)
        await asyncio.to_thread(narrow.sees, f"{namespace}/m", 2)
        while not torn.asked:
            answer = await ask(KEY, f"{namespace}/m", messages=str(old.asked), max_tokens=100)
    assert answer.json()["served_by"] == old.ip

    def charged() -> list[tuple[int, int, bool]]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        wanted = [line for line in lines if line.get("request") == answer.headers["x-request-id"]]
        return [(line["prompt"], line["output"], line["exact"]) for line in wanted]

    await soon(lambda: charged() == [(5, 100, False)], "prompt as reported, answer as asked for")


async def test_nobody_claims_a_better_priority_and_time_in_the_queue_counts(
    namespace: str, engine: Engine, ask: Callable[..., asyncio.Task[httpx.Response]]
) -> None:
    assert (await ask(KEY, f"{namespace}/m", priority="interactive", timeout=90)).status_code == 200
    assert engine.bodies[-1]["priority"] == 1
    assert 80 < float(engine.headers[-1]["x-request-timeout"]) <= 90


async def test_every_request_is_in_the_usage_log_and_in_the_metrics_by_its_key(
    narrow: Gateway, namespace: str, engine: Engine, log: Path, ask: Callable[..., asyncio.Task[httpx.Response]]
) -> None:
    model = f"{namespace}/m"
    answers = [await ask(key, model, messages="a secret") for key in (KEY, NOISY, NOISY)]

    def logged() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line["model"] == model]

    await soon(lambda: len(logged()) == 3, "three lines")
    assert [line["caller"] for line in logged()] == ["tests", "noisy", "noisy"]
    assert [line["request"] for line in logged()] == [answer.headers["x-request-id"] for answer in answers]
    assert {(line["status"], line["finish"]) for line in logged()} == {(200, "answered")}
    assert not any(word in str(line) for line in logged() for word in ("secret", KEY, NOISY))
    for caller, requests in (("tests", 1), ("noisy", 2)):
        series = {"caller": caller, "model": model, "outcome": "answered"}
        assert narrow.metric("topmast_gateway_caller_requests_total", **series) == requests
    reported = await asyncio.to_thread(narrow.usage)
    assert reported["replica"] == logged()[0]["replica"] and reported["open"] == {}
