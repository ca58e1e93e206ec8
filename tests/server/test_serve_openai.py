"""What an OpenAI client sees: the same answer streamed or not, honest usage, stop strings, seeds, several at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from server.serving import Server

ASK: list[Any] = [{"role": "user", "content": "What is the capital of Japan?"}]


def streamed(client: openai.OpenAI, **fields: Any) -> tuple[str, list[Any]]:
    fields = {"model": "smollm2", "messages": ASK, "temperature": 0, "max_tokens": 40, **fields}
    chunks = list(client.chat.completions.create(stream=True, **fields))
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks


def asked(client: openai.OpenAI, **fields: Any) -> Any:
    fields = {"model": "smollm2", "messages": ASK, "temperature": 0, "max_tokens": 40, **fields}
    return client.chat.completions.create(**fields)


def test_the_model_knows_the_capital_of_japan(client: openai.OpenAI) -> None:
    answer = asked(client)
    assert "Tokyo" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "smollm2"
    assert answer.id.startswith("chatcmpl-")


def test_streamed_text_equals_whole_text_and_so_does_usage(client: openai.OpenAI) -> None:
    whole = asked(client)
    text, chunks = streamed(client, stream_options={"include_usage": True})
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.usage.prompt_tokens_details.cached_tokens >= 0


def test_a_stream_has_one_role_one_finish_reason_and_no_unasked_usage(client: openai.OpenAI) -> None:
    _, chunks = streamed(client)
    assert [bool(chunk.choices[0].delta.role) for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_arrives_token_by_token_and_ends_with_done(server: Server) -> None:
    body = {"model": "smollm2", "prompt": "One, two,", "max_tokens": 12, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**body, "ignore_eos": True}, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert len(events) == 13
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_completions_stream_and_whole_are_the_same_text(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "smollm2", "prompt": "The sea is", "temperature": 0, "max_tokens": 24}
    whole = client.completions.create(**fields)
    parts = [chunk.choices[0].text for chunk in client.completions.create(stream=True, **fields)]
    assert "".join(parts) == whole.choices[0].text
    assert whole.usage is not None and whole.usage.completion_tokens <= 24


def test_completions_make_16_tokens_unless_asked_otherwise(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="smollm2", prompt="The sea is", extra_body={"ignore_eos": True})
    assert answer.usage is not None and answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


def test_several_prompts_as_text_or_ids_answer_in_order(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_tokens": 8}
    prompts = ["The sea is", "My dog likes"]
    both = client.completions.create(prompt=prompts, **fields)
    alone = [client.completions.create(prompt=prompt, **fields).choices[0].text for prompt in prompts]
    assert [choice.text for choice in both.choices] == alone
    ids = client.completions.create(prompt=[[504, 4117, 314], [2683, 2767, 6930]], n=2, **fields)
    assert [choice.index for choice in ids.choices] == [0, 1, 2, 3]
    assert ids.choices[0].text == ids.choices[1].text
    assert ids.usage is not None and ids.usage.prompt_tokens == 6


def test_a_seed_gives_the_same_text_alone_and_in_company(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"temperature": 1.5, "max_tokens": 24, "extra_body": {"ignore_eos": True}}
    alone = asked(client, seed=7, **fields).choices[0].message.content
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda seed: asked(client, seed=seed, **fields), [7, 8, 9, 10]))
    texts = [answer.choices[0].message.content for answer in answers]
    assert texts[0] == alone
    assert len(set(texts)) == 4


def test_choices_of_one_request_differ_and_repeat_with_the_seed(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"n": 3, "seed": 11, "temperature": 1.5, "max_tokens": 16}
    first, second = (asked(client, **fields) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in second.choices]
    chunks = client.chat.completions.create(model="smollm2", messages=ASK, stream=True, **fields)
    together = ["", "", ""]
    for chunk in chunks:
        together[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert together == texts


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_before_it_and_ends_the_work(
    server: Server, client: openai.OpenAI, stream: bool
) -> None:
    full = asked(client).choices[0].message.content
    stop = full[len(full) // 2 : len(full) // 2 + 5]
    before = server.work()["output_tokens_total"]
    endless: dict[str, Any] = {"max_tokens": 2000, "extra_body": {"ignore_eos": True}}
    if stream:
        text, chunks = streamed(client, stop=[stop], **endless)
        reason = chunks[-1].choices[0].finish_reason
    else:
        answer = asked(client, stop=stop, **endless)
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert text == full[: full.index(stop)]
    assert reason == "stop"
    server.wait_idle()
    # The engine goes on until it is told, which takes a while on a busy machine.
    assert server.work()["output_tokens_total"] - before < 1000


def test_unicode_survives_a_stream(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Repeat exactly: 🦙 naïve café 東京 🎉"}]
    fields: dict[str, Any] = {"messages": messages, "max_tokens": 60}
    text, chunks = streamed(client, **fields)
    assert text == asked(client, **fields).choices[0].message.content
    assert any(ord(letter) > 127 for letter in text), f"the model answered in ASCII alone: {text!r}"
    assert all("�" not in (c.choices[0].delta.content or "") for c in chunks[:-2])


def test_random_tokens_stream_as_they_are_told_whole(client: openai.OpenAI) -> None:
    # A hot model makes broken UTF-8, which is where streams and whole texts usually differ.
    fields: dict[str, Any] = {"temperature": 10, "seed": 3, "max_tokens": 150, "extra_body": {"ignore_eos": True}}
    text, _ = streamed(client, **fields)
    assert text == asked(client, **fields).choices[0].message.content
    assert len(text) > 100


def test_many_requests_at_once_answer_as_they_do_alone(server: Server, client: openai.OpenAI) -> None:
    topics = ["France", "Italy", "Japan", "Egypt", "Peru", "Kenya", "Norway", "India"]

    def ask(topic: str) -> str:
        messages = [{"role": "user", "content": f"What is the capital of {topic}?"}]
        return str(asked(client, messages=messages, max_tokens=24).choices[0].message.content)

    alone = [ask(topic) for topic in topics]
    with ThreadPoolExecutor(len(topics)) as pool:
        together = list(pool.map(ask, topics))
    assert sum(one == other for one, other in zip(alone, together, strict=True)) >= len(topics) - 1
    server.wait_idle()


def test_both_names_of_the_model_are_listed_and_answer_with_the_first(client: openai.OpenAI) -> None:
    cards = client.models.list().data
    assert [card.id for card in cards] == ["smollm2", "default/smollm2"]
    assert client.models.retrieve("default/smollm2").id == "default/smollm2"
    assert asked(client, model="default/smollm2", max_tokens=1).model == "smollm2"


def test_the_request_id_is_taken_over_and_echoed(server: Server) -> None:
    body = {"model": "smollm2", "messages": ASK, "max_tokens": 1}
    url = f"{server.url}/v1/chat/completions"
    answer = httpx.post(url, json=body, headers={"X-Request-Id": "trace-42"}, timeout=60)
    assert answer.headers["x-request-id"] == "trace-42"
    assert answer.json()["id"] == "chatcmpl-trace-42"
    forged = httpx.post(url, json=body, headers={"X-Request-Id": "a b\tc" * 99}, timeout=60)
    assert len(forged.headers["x-request-id"]) == 32
    line = server.wait_for_line(r"request_id=trace-42").string
    assert "POST /v1/chat/completions status=200" in line and "Japan" not in line
