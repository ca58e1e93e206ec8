"""The gateway in front of `topmast serve` with the real model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import openai
import pytest

from gateway.lab.served import Served, two_engines
from gateway.lab.stage import KEY, Gateway, Stage, eventually
from traffic import Traffic

MESSAGES = [{"role": "user", "content": "What is the capital of Japan?"}]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    """Two engines of one model."""
    with two_engines(tmp_path_factory.mktemp("engines"), "smollm2", "real/smollm2") as served:
        yield served


@pytest.fixture(scope="module")
def real_gateway(stage: Stage, new_gateway: Callable[..., Gateway]) -> Gateway:
    """One that knows only the namespace of the real model."""
    stage.namespace("real")
    stage.model("real", "smollm2")
    return new_gateway("--namespace", "real").wait_ready()


def test_streamed_and_whole_answers_are_the_engines_own(
    stage: Stage, real_gateway: Gateway, engines: list[Served]
) -> None:
    pods = [stage.pod("real", "smollm2", engine.ip) for engine in engines]
    real_gateway.sees("real/smollm2", 2)
    with (
        openai.OpenAI(base_url=f"http://{engines[0].ip}:8000/v1", api_key="none", max_retries=0) as direct,
        openai.OpenAI(base_url=f"{real_gateway.url}/v1", api_key=KEY, max_retries=0) as through,
    ):
        asked = {"messages": MESSAGES, "temperature": 0, "max_tokens": 16}
        expected = direct.chat.completions.create(model="smollm2", **asked)  # type: ignore[call-overload]
        for model in ("smollm2", "real/smollm2"):
            answer = through.chat.completions.create(model=model, **asked)  # type: ignore[call-overload]
            assert answer.choices[0].message.content == expected.choices[0].message.content != ""
            # The engines remember prompts, each its own, so cached_tokens may differ.
            assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
            assert answer.usage.completion_tokens == expected.usage.completion_tokens
            stream = through.chat.completions.create(model=model, stream=True, **asked)  # type: ignore[call-overload]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            assert text == expected.choices[0].message.content
        with pytest.raises(openai.BadRequestError):
            through.chat.completions.create(model="smollm2", messages=MESSAGES, temperature=-1)  # type: ignore[arg-type]
    for pod in pods:
        pod.delete()
    real_gateway.sees("real/smollm2", 0)


def test_an_engine_is_replaced_and_no_client_notices(
    stage: Stage, real_gateway: Gateway, engines: list[Served]
) -> None:
    pods = [stage.pod("real", "smollm2", engine.ip) for engine in engines]
    real_gateway.sees("real/smollm2", 2)
    with Traffic(f"{real_gateway.url}/v1", KEY, "smollm2", clients=3, max_tokens=12) as flow:
        eventually(lambda: flow.finished >= 6, "traffic flows", 30)
        pods[0].annotate(draining="true")  # what the operator does, and then takes the pod away
        real_gateway.sees("real/smollm2", 1)
        assert engines[0].stop() == 0
        engines[0].start()
        eventually(engines[0].ready, "the engine is back", 120)
        pods[0].annotate(draining="false")
        real_gateway.sees("real/smollm2", 2)
        before = flow.finished
        eventually(lambda: flow.finished >= before + 6, "traffic flows on", 30)
    flow.assert_clean(at_least=12)
    assert real_gateway.metric("topmast_gateway_tokens_in_flight") == 0
    for pod in pods:
        pod.delete()
    real_gateway.sees("real/smollm2", 0)


def test_a_killed_engine_costs_no_client_its_answer(stage: Stage, real_gateway: Gateway, engines: list[Served]) -> None:
    pods = [stage.pod("real", "smollm2", engine.ip) for engine in engines]
    real_gateway.sees("real/smollm2", 2)
    with Traffic(f"{real_gateway.url}/v1", KEY, "smollm2", clients=4, max_tokens=24) as flow:
        eventually(lambda: flow.finished >= 6, "traffic flows", 30)
        engines[1].process.kill()  # and the gateway gets no notice
        before = flow.finished
        eventually(lambda: flow.finished >= before + 16, "traffic flows on", 60)
    flow.assert_clean(at_least=22)
    for pod in pods:
        pod.delete()
