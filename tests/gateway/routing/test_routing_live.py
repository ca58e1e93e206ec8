"""Traffic follows what the API server says about pods, within moments."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from gateway.lab.engines import Engine, free_address
from gateway.lab.stage import Gateway, Pod, Stage, seconds_at_the_gateway, soon
from topmast_gateway.routing.outlier_detection import FAILURES, FIRST_EJECTION_S

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


async def served_by(http: httpx.AsyncClient, model: str, requests: int = 6) -> Counter[str]:
    """Which engines answer."""
    found: Counter[str] = Counter()
    for _ in range(requests):
        response = await http.post(CHAT, json={"model": model})
        assert response.status_code == 200, response.text
        found[response.json()["served_by"]] += 1
    return found


LEAVING = {
    "not ready": lambda pod: pod.set_ready(False),
    "being deleted": lambda pod: pod.delete(),
    "about to drain": lambda pod: pod.annotate(draining="true"),
}


@pytest.mark.parametrize("how", LEAVING)
async def test_a_pod_that_is_leaving_gets_nothing_new(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient, how: str
) -> None:
    async with Engine() as stays, Engine() as leaves:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", stays.ip)
        leaving: Pod = stage.pod(namespace, "m", leaves.ip)
        gateway.sees(f"{namespace}/m", 2)
        assert await served_by(http, f"{namespace}/m") == {stays.ip: 3, leaves.ip: 3}
        LEAVING[how](leaving)
        gateway.sees(f"{namespace}/m", 1, timeout_s=2)
        assert await served_by(http, f"{namespace}/m") == {stays.ip: 6}


async def test_a_pod_that_becomes_ready_gets_its_share(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine() as old, Engine() as new:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", old.ip)
        starting = stage.pod(namespace, "m", new.ip, ready=False)
        gateway.sees(f"{namespace}/m", 1)
        assert await served_by(http, f"{namespace}/m") == {old.ip: 6}
        starting.set_ready(True)
        gateway.sees(f"{namespace}/m", 2, timeout_s=2)
        assert await served_by(http, f"{namespace}/m") == {old.ip: 3, new.ip: 3}


async def test_pods_on_nodes_out_of_sight_serve_while_there_is_no_other(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine() as first, Engine() as second:
        stage.model(namespace, "m")
        pods = [stage.pod(namespace, "m", engine.ip) for engine in (first, second)]
        gateway.sees(f"{namespace}/m", 2)
        pods[0].lose_sight()
        await until_served_by(http, f"{namespace}/m", {second.ip})
        pods[1].lose_sight()
        await until_served_by(http, f"{namespace}/m", {first.ip, second.ip})


async def until_served_by(http: httpx.AsyncClient, model: str, engines: set[str]) -> None:
    """No request fails on the way there."""
    async with asyncio.timeout(30):
        while set(await served_by(http, model)) != engines:
            pass


async def test_models_of_two_namespaces_are_kept_apart(stage: Stage, gateway: Gateway, http: httpx.AsyncClient) -> None:
    one, two = stage.namespace(), stage.namespace()
    async with Engine() as first, Engine() as second:
        for namespace, engine in ((one, first), (two, second)):
            stage.model(namespace, "same")
            stage.pod(namespace, "same", engine.ip)
            gateway.sees(f"{namespace}/same", 1)
        assert await served_by(http, f"{one}/same") == {first.ip: 6}
        assert await served_by(http, f"{two}/same") == {second.ip: 6}
        assert first.bodies[0]["model"] == f"{one}/same"  # passed on as it came: engines know both names


async def test_a_big_request_weighs_as_much_as_many_small_ones(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine() as one, Engine() as two:
        stage.model(namespace, "m")
        for engine in (one, two):
            stage.pod(namespace, "m", engine.ip)
            engine.gate.clear()  # nobody has an answer before all have asked
        gateway.sees(f"{namespace}/m", 2)
        name = f"{namespace}/m"
        big = asyncio.create_task(http.post(CHAT, json={"model": name, "max_tokens": 8000}))
        await soon(lambda: one.running + two.running == 1, "the big one runs")
        small = [asyncio.create_task(http.post(CHAT, json={"model": name, "max_tokens": 100})) for _ in range(10)]
        await soon(lambda: one.running + two.running == 11, "all of them run")
        for engine in (one, two):
            engine.gate.set()
        answers = [response.json()["served_by"] for response in await asyncio.gather(big, *small)]
        busy, idle = answers[0], ({one.ip, two.ip} - {answers[0]}).pop()
        assert Counter(answers) == {busy: 1, idle: 10}
    await soon(lambda: gateway.metric("topmast_gateway_tokens_in_flight", model=name) == 0, "all is given back")


async def test_two_pods_share_equal_requests(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine() as one, Engine() as two:
        stage.model(namespace, "m")
        for engine in (one, two):
            stage.pod(namespace, "m", engine.ip)
            engine.gate.clear()
        gateway.sees(f"{namespace}/m", 2)
        asking = [asyncio.create_task(http.post(CHAT, json={"model": f"{namespace}/m"})) for _ in range(20)]
        # At the same time, not one after the other.
        await soon(lambda: (one.running, two.running) == (10, 10), "each has its half")
        for engine in (one, two):
            engine.gate.set()
        await asyncio.gather(*asking)
        assert (one.asked, two.asked) == (10, 10)


async def test_a_request_waits_for_the_first_pod(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine() as engine:
        stage.model(namespace, "m")
        gateway.sees(f"{namespace}/m", 0)
        waiting = asyncio.create_task(http.post(CHAT, json={"model": f"{namespace}/m"}))
        await soon(lambda: gateway.metric("topmast_gateway_requests_held") == 1, "it waits")
        assert not waiting.done()
        stage.pod(namespace, "m", engine.ip)
        await soon(waiting.done, "it is answered", 2)
        response = await waiting
        assert response.status_code == 200 and engine.asked == 1


async def test_waiting_ends_in_a_503_that_says_when_to_come_back(
    stage: Stage, impatient: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    stage.model(namespace, "m")
    stage.pod(namespace, "m", free_address(), ready=False)
    impatient.sees(f"{namespace}/m", 0)
    response = await http.post(impatient.url + CHAT, json={"model": f"{namespace}/m"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_ready_pod")
    assert response.headers["retry-after"] == "5" and 2.5 < response.elapsed.total_seconds() < 10
    await soon(lambda: impatient.metric("topmast_gateway_requests_held") == 0, "its place is given back")


async def test_nobody_waits_for_a_suspended_or_a_deleted_model(
    stage: Stage, gateway: Gateway, access_log: Path, namespace: str, http: httpx.AsyncClient
) -> None:
    stage.model(namespace, "asleep", suspend=True)
    stage.model(namespace, "doomed")
    gateway.sees(f"{namespace}/asleep", 0)
    gateway.sees(f"{namespace}/doomed", 0)
    response = await http.post(CHAT, json={"model": f"{namespace}/asleep"})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_suspended")
    assert seconds_at_the_gateway(access_log, response) < 1.5
    waiting = asyncio.create_task(http.post(CHAT, json={"model": f"{namespace}/doomed"}))
    await soon(lambda: gateway.metric("topmast_gateway_requests_held") == 1, "it waits")
    stage.delete_model(namespace, "doomed")
    await soon(waiting.done, "it is answered", 2)
    assert (await waiting).status_code == 404


async def test_a_conversation_stays_at_its_pod_and_who_debugs_sees_why(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    wanted = {"x-topmast-debug": "1"}
    with stage.debug_key(gateway) as debugger:
        allowed = {**wanted, "Authorization": f"Bearer {debugger}"}
        await _conversation(stage, gateway, namespace, http, wanted, allowed)


async def _conversation(
    stage: Stage,
    gateway: Gateway,
    namespace: str,
    http: httpx.AsyncClient,
    wanted: dict[str, str],
    allowed: dict[str, str],
) -> None:
    async with Engine() as one, Engine() as two:
        stage.model(namespace, "m")
        for engine in (one, two):
            stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 2)
        messages, served, routes = [{"role": "user", "content": "Tell me more about it. " * 100}], set(), []
        for _ in range(4):
            body = {"model": f"{namespace}/m", "messages": messages}
            response = await http.post(CHAT, json=body, headers=allowed)
            served.add(response.json()["served_by"])
            routes.append(response.headers["x-topmast-route"])
            messages += [{"role": "assistant", "content": "Yes. " * 100}, {"role": "user", "content": "And then?"}]
        assert len(served) == 1
        assert "reason=hash; blocks=0/9" in routes[0] and "reason=prefix; blocks=9/11" in routes[1]
        assert all(route.startswith("m-") for route in routes)
        assert gateway.metric("topmast_gateway_routed_total", model=f"{namespace}/m", reason="prefix") == 3
        for quiet in (await http.post(CHAT, json=body, headers=wanted), await http.post(CHAT, json=body)):
            assert "x-topmast-route" not in quiet.headers, "names of pods are for who may see them"
        assert gateway.metric("topmast_gateway_routed_total", model=f"{namespace}/m", reason="prefix") <= 4


async def test_a_session_stays_at_its_pod_whatever_it_asks(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine() as one, Engine() as two:
        stage.model(namespace, "m")
        for engine in (one, two):
            stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 2)
        for session in range(20):  # pods have new ids each time: all of these meet at one once in 500 000 runs
            asks = [{"model": f"{namespace}/m", "prompt": f"{session} {turn}"} for turn in range(3)]
            answers = [await http.post(TEXT, json=body, headers={"x-session-id": f"s-{session}"}) for body in asks]
            assert len({answer.json()["served_by"] for answer in answers}) == 1
        assert min(one.asked, two.asked) > 0
        assert not any("x-session-id" in headers for engine in (one, two) for headers in engine.headers)


async def test_a_pod_that_answers_500_is_ejected_while_another_works(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine("broken") as bad, Engine() as good:
        stage.model(namespace, "m")
        for engine in (bad, good):
            stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 2)
        start = time.monotonic()
        codes = [(await http.post(CHAT, json={"model": f"{namespace}/m"})).status_code for _ in range(20)]
        probes = int((time.monotonic() - start) / FIRST_EJECTION_S)  # none, but on a machine that stood still
        assert FAILURES <= bad.asked <= FAILURES + probes
        assert set(codes) == {200} and good.asked == 20, "each 500 was tried again at the other pod"
        assert gateway.metric("topmast_gateway_ejected_pods", model=f"{namespace}/m") == 1
