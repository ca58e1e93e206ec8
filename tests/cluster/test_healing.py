"""Engines that die or freeze heal by themselves, and the status tells why."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from datetime import datetime

import openai
import pytest

from cluster.lab import Lab, Object


def restarts(lab: Lab, model: str) -> int:
    return sum(status["restartCount"] for pod in lab.pods(model) for status in pod["status"]["containerStatuses"])


def last_end(lab: Lab, model: str) -> Object:
    """How the engine container of the model's only pod ended last time."""
    (pod,) = lab.pods(model)
    ended: Object = pod["status"]["containerStatuses"][0]["lastState"].get("terminated", {})
    return ended


def test_a_killed_engine_is_restarted_and_the_reason_is_told(lab: Lab) -> None:
    with lab.model("killed") as model:
        lab.until_ready(model)
        (pod,) = lab.pods(model)
        lab.signal_engine(pod, signal.SIGKILL)
        lab.until("the container was restarted", lambda: restarts(lab, model) == 1, 60)
        assert "EngineDied" in last_end(lab, model)["message"]
        told = lab.until("the status tells it", lambda: engine_stories(lab, model, "EngineDied"), 60)
        assert told
        lab.until_ready(model)
        assert "Tokyo" in lab.ask(model)


def test_a_frozen_engine_is_found_within_15_s_and_replaced(lab: Lab) -> None:
    with lab.model("frozen") as model:
        lab.until_ready(model)
        (pod,) = lab.pods(model)
        asked = threading.Thread(target=_ask_and_expect_an_error, args=(lab, model))
        asked.start()
        lab.until("the request is being worked on", lambda: lab.computes(pod), every_s=0.1)
        frozen_at = time.time()
        lab.signal_engine(pod, signal.SIGSTOP)
        lab.until("the hang was found", lambda: "EngineHung" in last_end(lab, model).get("message", ""))
        found_after = datetime.fromisoformat(last_end(lab, model)["finishedAt"]).timestamp() - frozen_at
        asked.join(timeout=120)
        assert found_after <= 15, f"the freeze was found after {found_after:.1f} s"
        assert lab.until("the status tells it", lambda: engine_stories(lab, model, "EngineHung"), 60)
        lab.until_ready(model)
        assert "Tokyo" in lab.ask(model)


def _ask_and_expect_an_error(lab: Lab, model: str) -> None:
    with contextlib.suppress(openai.OpenAIError):
        lab.ask(model, "Tell me a long story about the sea.", max_tokens=2000, extra_body={"ignore_eos": True})


def engine_stories(lab: Lab, model: str, code: str) -> str:
    """What conditions and Events of the model say about a code."""
    found = lab.get("llm", model)
    texts = [f"{entry['reason']} {entry['message']}" for entry in found["status"]["conditions"]]
    texts.append(lab.kubectl("get", "events", "--field-selector", f"involvedObject.name={model}"))
    return "\n".join(text for text in texts if code in text)


def test_a_long_prefill_is_no_hang(lab: Lab) -> None:
    with lab.model("busy") as model:
        lab.until_ready(model)
        text = (
            "The ship sails over the sea and the wind blows. " * 250
        )  # about 2,750 tokens: a dozen seconds on a slow machine
        lab.ask(model, text, max_tokens=4)
        assert restarts(lab, model) == 0


def test_a_pod_that_is_deleted_under_load_loses_no_request(lab: Lab) -> None:
    with lab.model("drained", replicas=2) as model:
        lab.until_ready(model, 2)
        with lab.traffic(model, clients=3) as flow:
            lab.until("traffic flows", lambda: flow.finished >= 5)
            victim = lab.pods(model)[0]["metadata"]["name"]
            lab.kubectl("delete", "pod", victim, "--wait=false")
            lab.until("the pod is gone", lambda: victim not in lab.kubectl("get", "pods", "-o", "name"), 90)
            lab.until_ready(model, 2)
            seen = flow.finished
            lab.until("answers afterwards", lambda: flow.finished >= seen + 5)
        flow.assert_clean(10)


@pytest.mark.parametrize(
    ("name", "source", "code"),
    [
        ("missing", "image:///models/nosuch.gguf", "ModelNotFound"),
        ("corrupt", "pvc://bad-models/corrupt.gguf", "ModelCorrupt"),
    ],
)
def test_a_bad_model_ends_in_a_condition_not_in_a_crash_loop(
    lab: Lab, bad_models: None, name: str, source: str, code: str
) -> None:
    with lab.model(name, source=source) as model:
        stalled = lab.until(
            "Stalled=True",
            lambda: lab.condition(model, "Stalled")["status"] == "True" and lab.condition(model, "Stalled"),
            120,
        )
        assert code in stalled["reason"] + stalled["message"]
        assert source.rsplit("/", 1)[1] in stalled["message"]
        assert "topmast.dev/retry" in stalled["message"]
        available = lab.condition(model, "ModelAvailable")
        assert available["status"] == "False"
        lab.until("no pod keeps crashing", lambda: not lab.pods(model), 60)
        time.sleep(10)
        assert lab.pods(model) == [], "the crash loop started again by itself"


def test_a_gpu_that_is_not_there_shows_in_the_status_with_numbers(lab: Lab) -> None:
    with lab.model("greedy", resources={"accelerator": {"count": 3}}) as model:
        short = lab.until(
            "CapacityAvailable=False",
            lambda: (
                lab.condition(model, "CapacityAvailable")["status"] == "False"
                and "nvidia.com/gpu" in lab.condition(model, "CapacityAvailable")["message"]
                and lab.condition(model, "CapacityAvailable")
            ),
        )
        assert "3" in short["message"], short
        assert lab.condition(model, "Ready")["status"] == "False"
