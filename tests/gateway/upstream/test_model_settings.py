"""What a model says of its own requests in spec.access: names, fallbacks, timeouts and retries, with engines behind."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from gateway.lab.engines import Engine
from gateway.lab.stage import Gateway, Stage
from topmast_gateway.config import Timeouts
from topmast_gateway.routing.model_table import Model

CHAT = "/v1/chat/completions"


def cast(stage: Stage, gateway: Gateway, namespace: str, name: str, *engines: Engine, **spec: Any) -> str:
    """A model with these engines."""
    stage.model(namespace, name, **spec)
    for engine in engines:
        stage.pod(namespace, name, engine.ip)
    gateway.sees(f"{namespace}/{name}", len(engines))
    return f"{namespace}/{name}"


@pytest.mark.parametrize(("pods", "asked"), [(1, 1), (2, 2), (4, 2)])
async def test_an_engine_s_5xx_is_tried_once_more_at_another_pod_and_then_handed_on(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient, pods: int, asked: int
) -> None:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(Engine("broken")) for _ in range(pods)]
        model = cast(stage, gateway, namespace, "m", *engines)
        for stream in (False, True):
            before = sum(engine.asked for engine in engines)
            answer = await http.post(CHAT, json={"model": model, "stream": stream})
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
            assert sum(engine.asked for engine in engines) - before == asked
    assert gateway.metric("topmast_gateway_retries_total", model=model, kind="engine_failed") >= 2


@pytest.mark.parametrize("retries", [0, 1, 4])
async def test_a_model_says_how_often_a_request_that_may_have_run_is_tried_again(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient, retries: int
) -> None:
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(Engine("reset")) for _ in range(6)]
        model = cast(stage, gateway, namespace, "m", *engines, access={"retries": retries})
        answer = await http.post(CHAT, json={"model": model})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_lost")
        assert sum(engine.asked for engine in engines) == 1 + retries


async def test_a_model_s_timeouts_take_the_place_of_the_gateway_s(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    access = {"timeouts": {"holdSeconds": 1, "progressSeconds": 2, "answerSeconds": 3}}
    absent = cast(stage, gateway, namespace, "absent", access=access)
    answer = await http.post(CHAT, json={"model": absent})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_ready_pod")
    assert "waited 1 s" in answer.json()["error"]["message"]
    async with Engine("silent") as engine:
        model = cast(stage, gateway, namespace, "silent", engine, access=access)
        for stream, waited in ((True, "2 s"), (False, "3 s")):
            answer = await http.post(CHAT, json={"model": model, "stream": stream})
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
            assert f"within {waited}" in answer.json()["error"]["message"]


def test_what_a_model_does_not_say_is_the_gateway_s() -> None:
    ours = Timeouts(hold_s=7, queue_s=9)
    assert ours.of(Model("ns", "m")) is ours
    own = ours.of(Model("ns", "m", timeouts=(("queue_s", 2.0),)))
    assert (own.queue_s, own.hold_s, own.answer_s) == (2.0, 7, 1200)


@pytest.mark.parametrize("trouble", ["suspended", "no pod", "broken", "reset"])
async def test_a_fallback_answers_under_the_alias_of_the_model_that_cannot(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient, trouble: str
) -> None:
    async with Engine("broken" if trouble == "broken" else "reset") as bad, Engine() as good:
        second = cast(stage, gateway, namespace, "second", good)
        spec = {"suspend": True} if trouble == "suspended" else {}
        engines = [bad] if trouble in ("broken", "reset") else []
        access = {"aliases": ["gpt-4o"], "fallbacks": ["second"], "timeouts": {"holdSeconds": 60}}
        first = cast(stage, gateway, namespace, "first", *engines, access=access, **spec)
        listed = (await http.get("/v1/models")).json()["data"]
        assert {"gpt-4o", f"{namespace}/gpt-4o"} & {card["id"] for card in listed}
        for stream in (False, True):
            answer = await http.post(CHAT, json={"model": f"{namespace}/gpt-4o", "stream": stream}, timeout=20)
            assert answer.status_code == 200 and good.ip in answer.text
        assert {body["model"] for body in good.bodies} == {second}
    assert gateway.metric("topmast_gateway_fallbacks_total", model=first, to=second) == 2
    assert gateway.metric("topmast_gateway_requests_total", model=second, code="200") == 2


async def test_a_fallback_of_another_namespace_needs_the_caller_s_right_to_it(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    async with Engine() as good:
        elsewhere = stage.namespace()
        there = cast(stage, gateway, elsewhere, "shared", good)
        cast(stage, gateway, namespace, "first", access={"fallbacks": [there]}, suspend=True)
        assert (await http.post(CHAT, json={"model": f"{namespace}/first"})).status_code == 200
        with stage.debug_key(gateway, models=[f"{namespace}/*"]) as key:
            headers = {"Authorization": f"Bearer {key}"}
            answer = await http.post(CHAT, json={"model": f"{namespace}/first"}, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_suspended")
