"""Models that sleep, with everything real: no pod until somebody asks, an answer for who waits, and no pod again."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from cluster.lab import Lab, condition


def test_a_model_without_pods_answers_a_stream_then_a_herd_and_sleeps_in_between(lab: Lab) -> None:
    with lab.model("night", replicas=0, sleep={"idleSeconds": 10}) as model:
        lab.until("it sleeps", lambda: phase(lab, model) == "Sleeping")
        assert lab.pods(model) == [] and condition(lab.get("llm", model), "Ready")["status"] == "True"

        began = time.monotonic()
        status, text = streamed(lab, model)
        took_s = time.monotonic() - began
        assert status == 200 and text.endswith("data: [DONE]\n\n"), text
        comments = [line for line in text.splitlines() if line.startswith(": waiting for a pod of night")]
        woken = lab.until_ready(model)
        assert woken["spec"]["replicas"] == 0
        measured_s = woken["status"]["start"]["p90Seconds"]
        # The first word comes after three seconds; on a quiet machine the model is up by then. Five may be four: both
        # ends are whole seconds.
        assert comments or measured_s <= 5, f"{measured_s} s without a word: {text[:500]}"
        assert 1 <= measured_s <= took_s + 2

        lab.until("it sleeps again", lambda: phase(lab, model) == "Sleeping" and not lab.pods(model), 120)
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: lab.ask(model), range(12)))
        assert all("Tokyo" in answer for answer in answers), answers
        lab.until("two starts are told", lambda: len(lab.get("llm", model)["status"]["start"]["latestSeconds"]) == 2)


def phase(lab: Lab, model: str) -> str:
    return str(lab.get("llm", model)["status"].get("phase"))


def streamed(lab: Lab, model: str) -> tuple[int, str]:
    """A stream as it came, comments included: SDKs skip them."""
    body = {"model": model, "stream": True, "max_tokens": 24, "temperature": 0}
    body |= {"messages": [{"role": "user", "content": "What is the capital of Japan?"}]}
    headers = {"Authorization": f"Bearer {lab.key}"}
    answer = httpx.post(f"{lab.gateway_url}/chat/completions", json=body, headers=headers, timeout=150, trust_env=False)
    return answer.status_code, answer.text
