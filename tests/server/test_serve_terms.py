"""A request may say who goes first, until when it wants an answer, and that it wants to know where its time went."""

from __future__ import annotations

import itertools
import json
from typing import Any

import httpx
import openai
import pytest

from server.serving import PATIENCE_S, Server, least

PHASES = {"tokenise_ms", "queued_ms", "prefill_ms", "decode_ms", "total_ms", "preemptions", "tokens_per_s"}
BODY: dict[str, Any] = {"model": "smollm2", "prompt": [5, 6, 7, 8], "max_tokens": 12, "ignore_eos": True}


def post(server: Server, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/completions", json={**BODY, **fields}, headers=headers, timeout=PATIENCE_S)


def cut_short(server: Server, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    """An answer of 8000 tokens whose time is up in its midst: as soon as this machine lets it begin at all."""
    for timeout_s in (0.5, 5, 50):
        terms = {name: value.format(timeout_s) for name, value in (headers or {}).items()}
        short = {} if headers else {"timeout": timeout_s}
        answer = post(server, terms, max_tokens=8000, **{**fields, **short})
        if answer.status_code != 503:
            break
    return answer


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def true_timing(timing: dict[str, Any]) -> None:
    assert timing.keys() == PHASES
    assert 0 < timing["decode_ms"] < timing["total_ms"]
    assert 0 <= timing["tokenise_ms"] < timing["total_ms"]
    assert timing["tokens_per_s"] == pytest.approx(11 / timing["decode_ms"] * 1000, rel=0.02)


def test_an_answer_tells_where_its_time_went_to_those_who_ask(server: Server) -> None:
    true_timing(post(server, timing=True).json()["timing"])
    true_timing(post(server, {"x-request-timing": "1"}).json()["timing"])
    for plain in (post(server), post(server, {"x-request-timing": "0"}, timing=False)):
        assert "timing" not in plain.json()


def test_a_stream_tells_it_in_its_last_chunk(server: Server, client: openai.OpenAI) -> None:
    for usage in (False, True):
        options = {"stream_options": {"include_usage": True}} if usage else {}
        chunks = events(post(server, {"x-request-timing": "true"}, stream=True, **options))
        true_timing(chunks[-1]["timing"])
        assert not any("timing" in chunk for chunk in chunks[:-1])
        assert ("usage" in chunks[-1]) == usage
    assert not any("timing" in chunk for chunk in events(post(server, stream=True)))
    chat = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=12,
        stream=True,
        extra_body={"timing": True, "ignore_eos": True},
    )
    true_timing(list(chat)[-1].to_dict()["timing"])  # type: ignore[arg-type]


def test_an_answer_that_a_stop_string_ends_tells_it_too(server: Server) -> None:
    whole = post(server, temperature=0).json()["choices"][0]["text"]
    timing = post(server, temperature=0, stop=whole[len(whole) // 2 :][:3], timing=True).json()["timing"]
    assert timing["prefill_ms"] > 0 and timing["queued_ms"] >= 0


def test_the_phases_add_up_to_the_whole(server: Server) -> None:
    salts = itertools.count()

    def untold() -> float:
        """The share of the whole that no phase has, and of the prefill that was spent waiting."""
        salt = f"phases {next(salts)}"  # no try finds the prompt in the cache
        timing = post(server, timing=True, prompt=list(range(100, 400)), cache_salt=salt).json()["timing"]
        told = sum(timing[name] for name in ("tokenise_ms", "queued_ms", "prefill_ms", "decode_ms"))
        assert told <= timing["total_ms"] + 0.05, timing  # each is rounded
        return max(2 * (1 - told / timing["total_ms"]), timing["queued_ms"] / timing["prefill_ms"])

    assert least(untold, 0.99) < 1, "an idle server lets nobody wait, and half of the time is the engine's"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-request-timeout", "soon"),
        ("x-request-timeout", "0"),
        ("x-request-timeout", "-1"),
        ("x-request-timeout", "nan"),
        ("x-request-timeout", "1e9"),
        ("x-request-timeout", ""),
        ("x-request-timing", "yes please"),
    ],
)
def test_a_header_that_is_nonsense_is_refused_by_name(server: Server, header: str, value: str) -> None:
    answer = post(server, {header: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, header)
    assert "give" in answer.json()["error"]["message"]


@pytest.mark.parametrize("priority", ["interactive", "normal", "batch", 0, 1, 2, None])
def test_every_priority_is_answered(server: Server, priority: object) -> None:
    assert post(server, priority=priority, cache_salt="mine", timeout=60).status_code == 200


def test_an_answer_that_is_not_finished_in_time_is_a_504(server: Server) -> None:
    answer = cut_short(server)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "retry-after" not in answer.headers
    server.wait_idle()


def test_a_stream_that_is_not_finished_in_time_ends_with_an_error(server: Server) -> None:
    answer = cut_short(server, {"x-request-timeout": "{}"}, stream=True, timeout=200)
    assert answer.status_code == 200 and "[DONE]" not in answer.text
    assert len(events(answer)) > 1
    assert events(answer)[-1]["error"]["code"] == "deadline_exceeded"
    server.wait_idle()


def test_a_request_whose_time_is_up_before_its_first_token_may_try_elsewhere(server: Server) -> None:
    for stream in (False, True):
        answer = post(server, timeout=0.02, prompt=list(range(100, 3000)), stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline_exceeded")
        assert int(answer.headers["retry-after"]) >= 1
    server.wait_idle()
