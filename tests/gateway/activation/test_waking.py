"""Models that sleep, as a client meets them: held and answered, or refused at once with the time that it takes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from gateway.lab.engines import Engine
from gateway.lab.stage import KEY, Gateway, Stage, soon
from topmast_gateway.activation.waker import EVERY_S

CHAT = "/v1/chat/completions"
TOKEN = "a-token-of-the-tests"
SLEEP = {"replicas": 0, "sleep": {}}


class PlayOperator:
    """The operator's side of a call: a real HTTP server that counts and answers as set."""

    def __init__(self) -> None:
        self.status, self.eta_s = 202, 0.5
        self.calls: list[tuple[float, str, str]] = []  # monotonic time, path, authorization
        self.url = ""

    async def serve(self) -> AsyncIterator[PlayOperator]:
        app = web.Application()
        app.router.add_post("/wake/{namespace}/{name}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*runner.addresses[0])
        yield self
        await runner.cleanup()

    def called(self, model: str) -> int:
        return sum(path == f"/wake/{model}" for _, path, _ in self.calls)

    async def _answer(self, request: web.Request) -> web.Response:
        self.calls.append((time.monotonic(), request.path, request.headers.get("Authorization", "")))
        reported = {"phase": "Sleeping", "eta_s": self.eta_s} if self.status == 202 else {"error": "no", "code": "x"}
        return web.json_response(reported, status=self.status)


@pytest.fixture
async def operator() -> AsyncIterator[PlayOperator]:
    async for played in PlayOperator().serve():
        yield played


@pytest.fixture
async def waking(
    new_gateway: Callable[..., Gateway], operator: PlayOperator, tmp_path: Path, namespace: str
) -> AsyncIterator[Gateway]:
    """A gateway that knows the operator, with a short queue, and with less patience than slow wakes take."""
    (tmp_path / "token").write_text(TOKEN + "\n")
    flags = ["--operator-url", operator.url, "--shared-token-file", str(tmp_path / "token")]
    gateway = new_gateway("--namespace", namespace, "--hold-s", "30", "--queue-requests", "8", *flags)
    await soon(lambda: gateway.ready() == 200, "ready", 30)
    yield gateway
    gateway.close()


@pytest.fixture
async def client(waking: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=waking.url, headers=headers, timeout=90, trust_env=False) as client:
        yield client


def status(stage: Stage, namespace: str, model: str, **status: object) -> None:
    stage.custom.patch_namespaced_custom_object_status(
        "topmast.dev", "v1alpha1", namespace, "llmdeployments", model, {"status": status}
    )


def asleep(p90_s: int) -> dict[str, object]:
    since = {"state": "Asleep", "since": "2026-01-01T00:00:00Z", "reason": "idle"}
    return {"sleep": since, "start": {"p90Seconds": p90_s}}


async def test_many_requests_wake_a_sleeping_model_with_one_call_and_are_answered(
    stage: Stage, waking: Gateway, operator: PlayOperator, namespace: str, client: httpx.AsyncClient
) -> None:
    stage.model(namespace, "m", **SLEEP)
    await soon(lambda: waking.ready_pods(f"{namespace}/m") == 0, "the model is seen")
    async with Engine() as engine:
        requests = [asyncio.create_task(client.post(CHAT, json={"model": "m", "stream": n % 2 == 0})) for n in range(8)]
        await soon(lambda: operator.called(f"{namespace}/m") == 1, "the call")
        await soon(lambda: waking.metric("topmast_gateway_requests_held") == 8, "all of them wait")
        beyond = await client.post(CHAT, json={"model": "m"})
        assert (beyond.status_code, beyond.json()["error"]["code"]) == (503, "queue_full")
        assert beyond.headers["retry-after"] == "5", "nothing was measured yet"
        stage.pod(namespace, "m", engine.ip)
        await soon(lambda: all(task.done() for task in requests), "all are answered", 5)
        answers = await asyncio.gather(*requests)
        assert [answer.status_code for answer in answers] == [200] * 8 and engine.asked == 8
    times = [called_at for called_at, _, _ in operator.calls]  # the second one on a machine that stood still
    assert all(after - before >= EVERY_S for before, after in pairwise(times)), "one call for all, and none too soon"
    assert {authorization for _, _, authorization in operator.calls} == {f"Bearer {TOKEN}"}
    assert waking.metric("topmast_gateway_wake_calls_total", result="accepted") == len(times)
    assert waking.metric("topmast_gateway_requests_held") == 0


async def test_a_wake_that_takes_longer_than_the_client_has_is_refused_at_once_with_the_measured_time(
    stage: Stage, waking: Gateway, operator: PlayOperator, namespace: str, client: httpx.AsyncClient
) -> None:
    stage.model(namespace, "slow", **SLEEP)
    status(stage, namespace, "slow", **asleep(94))
    operator.eta_s = 94.0
    await soon(lambda: waking.ready_pods(f"{namespace}/slow") == 0, "the model is seen")
    responses = [await client.post(CHAT, json={"model": "slow"})]
    assert operator.called(f"{namespace}/slow") == 1, "it is woken all the same"
    responses += [await client.post(CHAT, json={"model": "slow"}) for _ in range(2)]
    for response in responses:
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_waking")
    assert 93 <= int(responses[0].headers["retry-after"]) <= 94
    assert min(response.elapsed.total_seconds() for response in responses) < 1.5
    assert "about 94 s" in responses[0].json()["error"]["message"]
    # One with more time waits, by either way to say so; one with less is refused at once.
    patient = asyncio.create_task(client.post(CHAT, json={"model": "slow", "timeout": 200}))
    pieces: list[str] = []
    stream = asyncio.create_task(read_stream(client, "slow", pieces))
    hasty = await client.post(CHAT, json={"model": "slow", "timeout": 200}, headers={"x-request-timeout": "20"})
    assert hasty.status_code == 503
    await soon(lambda: waking.metric("topmast_gateway_requests_held") == 2, "both wait")
    # The engine says how far it is; the pod comes earlier than such wakes usually do.
    loading = {"name": "p", "phase": "Loading", "percent": 60, "etaSeconds": 20}
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sleep = {"state": "Waking", "since": began, "reason": "a request"}
    status(stage, namespace, "slow", sleep=sleep, pods=[loading])
    reported = ""
    async with asyncio.timeout(30):
        while "loading" not in reported:
            reported = (await client.post(CHAT, json={"model": "slow"})).json()["error"]["message"]
    assert re.search(r"loading weights, 60 %, about [6-9]\d s", reported)
    async with Engine() as engine:
        # Silent for three seconds first, so that a short wait can still end in a plain 503.
        await soon(
            lambda: ": waiting for a pod of slow: loading weights, 60 %, about " in "".join(pieces),
            "it is in the stream",
        )
        stage.pod(namespace, "slow", engine.ip)
        await soon(lambda: patient.done() and stream.done(), "both are answered", 5)
        whole = await patient
        await stream
    assert whole.status_code == 200 and "served_by" in whole.text
    assert "".join(pieces).endswith("data: [DONE]\n\n")


async def read_stream(client: httpx.AsyncClient, model: str, pieces: list[str]) -> None:
    """Keep what comes, as it comes."""
    async with client.stream("POST", CHAT, json={"model": model, "stream": True}) as answer:
        assert answer.status_code == 200
        async for piece in answer.aiter_text():
            pieces.append(piece)


async def test_what_a_human_stopped_is_never_called_and_what_never_sleeps_is_held_as_ever(
    stage: Stage, waking: Gateway, operator: PlayOperator, namespace: str, client: httpx.AsyncClient
) -> None:
    stage.model(namespace, "night", suspend=True, sleep={})
    stage.model(namespace, "broken", **SLEEP)
    stalled = {"type": "Stalled", "status": "True", "reason": "ModelCorrupt", "message": "cut off"}
    began = {"state": "Waking", "since": "2026-01-01T00:00:00Z", "reason": "a request"}
    stalled["lastTransitionTime"] = began["since"]
    status(stage, namespace, "broken", conditions=[stalled], sleep=began)
    stage.model(namespace, "plain")
    await soon(lambda: waking.ready_pods(f"{namespace}/plain") == 0, "the models are seen")
    for model, code in (("night", "model_suspended"), ("broken", "model_stalled")):
        answers = [await client.post(CHAT, json={"model": model, "stream": model == "broken"}) for _ in range(3)]
        assert {answer.json()["error"]["code"] for answer in answers} == {code}
        assert min(answer.elapsed.total_seconds() for answer in answers) < 1
    response = await client.post(CHAT, json={"model": "plain", "timeout": 2})
    assert response.json()["error"]["code"] == "no_ready_pod" and response.elapsed.total_seconds() > 1.5
    assert operator.calls == []


async def test_without_its_operator_a_sleeping_model_costs_its_clients_their_patience_and_nobody_else_anything(
    stage: Stage,
    waking: Gateway,
    operator: PlayOperator,
    namespace: str,
    client: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    operator.status = 503
    stage.model(namespace, "m", **SLEEP)
    stage.model(namespace, "awake")
    async with Engine() as engine:
        stage.pod(namespace, "awake", engine.ip)
        await soon(lambda: waking.ready_pods(f"{namespace}/awake") == 1, "the pod is seen")
        waiting = asyncio.create_task(client.post(CHAT, json={"model": "m", "timeout": 60}))
        await soon(lambda: operator.called(f"{namespace}/m") >= 1, "the call")
        (tmp_path / "token").write_text("rotated")
        others = [await client.post(CHAT, json={"model": "awake"}) for _ in range(3)]
        assert min(answer.elapsed.total_seconds() for answer in others) < 1
        response = await client.post(CHAT, json={"model": "m", "timeout": 2})
        await soon(lambda: operator.calls[-1][2] == "Bearer rotated", "called again while somebody waits")
        waiting.cancel()
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_waking")
    assert response.headers["retry-after"] == "5" and 1.5 < response.elapsed.total_seconds() < 10
    times = [called_at for called_at, _, _ in operator.calls]
    assert all(after - before >= EVERY_S for before, after in pairwise(times)), "and not more often than that"
    await soon(lambda: any("HTTP 503" in line for line in waking.lines), "the trouble is named")
    assert not any(TOKEN in line for line in waking.lines)


async def test_waiting_requests_go_to_a_new_pod_in_order_and_wait_for_its_room(
    stage: Stage, waking: Gateway, namespace: str, client: httpx.AsyncClient
) -> None:
    stage.model(namespace, "m", **SLEEP)
    await soon(lambda: waking.ready_pods(f"{namespace}/m") == 0, "the model is seen")
    async with Engine("full", times=12) as engine:
        engine.retry_after_s = 1
        requests = []
        for number in range(6):
            requests.append(asyncio.create_task(client.post(CHAT, json={"model": "m", "number": number})))
            await soon(lambda n=number: waking.metric("topmast_gateway_requests_held") == n + 1, "it waits")  # type: ignore[misc]
        stage.pod(namespace, "m", engine.ip)
        await soon(lambda: all(task.done() for task in requests), "all are answered", 10)
        answers = await asyncio.gather(*requests)
        assert [answer.status_code for answer in answers] == [200] * 6, "a full pod was no reason to refuse them"
    numbers = [body["number"] for body in engine.bodies]
    assert len(numbers) == 12 + 6, "nobody is sent more often than it was refused"
    # They leave 20 ms apart: where a machine is later than that, one may overtake another on the way.
    tries = [[n for place, n in enumerate(numbers) if numbers[:place].count(n) == turn] for turn in range(3)]
    assert list(range(6)) in tries, f"in the order of their arrival: {numbers}"
