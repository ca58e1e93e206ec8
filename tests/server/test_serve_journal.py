"""An answer can be cut anywhere and finished by another server, as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from server.conftest import MODEL
from server.serving import PATIENCE_S, Server

JOURNAL = {"x-topmast-journal": "1", "x-request-id": "told"}
CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"


@dataclass
class Told:
    """What the lines of one journal say. `commits`: the tokens, and the data before each `: +` line, from the start."""

    prompt: int = -1
    created: int = 0
    cached: int = -1
    commits: list[tuple[list[int], list[str]]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    data: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose bits are the same from its first request on."""
    running = Server(tmp_path_factory.mktemp("journal"), MODEL, "--served-model-name", "smollm2", "--batch-invariant")
    try:
        running.wait_ready()
        yield running
    finally:
        running.end()


def read(body: str) -> Told:
    told = Told()
    for block in body.split("\n\n"):
        kind, _, rest = block.removeprefix(": ").partition(" ")
        if block.startswith("data: "):
            told.data.append(block.removeprefix("data: "))
        elif kind == "prompt":
            told.prompt, told.created = map(int, rest.split())
        elif kind == "cached":
            told.cached = int(rest)
        elif kind in ("+", "end"):
            told.ids += map(int, rest.split())
            if kind == "+":
                told.commits.append((list(told.ids), list(told.data)))
        else:
            assert block in ("", ": alive"), block
    return told


def post(server: Server, path: str, body: dict[str, Any]) -> Told:
    answer = httpx.post(server.url + path, json={"model": "smollm2", **body}, headers=JOURNAL, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-topmast-journal"] == "1"
    assert answer.headers["content-type"].startswith("text/event-stream")
    return read(answer.text)


def some(commits: list[Any]) -> list[Any]:
    """The first, the last, and a few between."""
    return commits[:: max(1, len(commits) // 4)] + commits[-1:]


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy chat": (CHAT, {"messages": [{"role": "user", "content": "Count to ten."}], "temperature": 0}),
    "seeded chat": (CHAT, {"messages": [{"role": "user", "content": "A poem, please."}], "seed": 7}),
    "emoji": (PLAIN, {"prompt": "🙂 🚀 🎉 日本 🙂 🚀 🎉 日本 🙂 🚀", "temperature": 0}),
    "ids": (PLAIN, {"prompt": [5, 6, 7, 8], "seed": 3, "temperature": 1.2, "ignore_eos": True}),
    "stop string": (PLAIN, {"prompt": "1, 2, 3, 4, 5,", "temperature": 0, "stop": [" 12, 13"]}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_stream_goes_on_from_any_line_of_its_journal(server: Server, case: str) -> None:
    path, body = CASES[case]
    body = {**body, "max_tokens": 40, "stream": True, "stream_options": {"include_usage": True}}
    undisturbed = post(server, path, body)
    assert undisturbed.data[-1] == "[DONE]"
    usage = json.loads(undisturbed.data[-2])["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (undisturbed.prompt, len(undisturbed.ids))
    for ids, data in some(undisturbed.commits):
        rest = post(server, path, {**body, "continuation": {"token_ids": ids, "created": undisturbed.created}})
        assert ids + rest.ids == undisturbed.ids
        assert text(data + rest.data) == text(undisturbed.data)
        assert identity(data + rest.data) == identity(undisturbed.data)
        again = json.loads(rest.data[-2])["usage"]
        del usage["prompt_tokens_details"], again["prompt_tokens_details"]  # the cache of the moment
        assert again == usage
        usage = json.loads(undisturbed.data[-2])["usage"]


def test_an_answer_that_is_not_streamed_goes_on_too(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Count to ten."}], "max_tokens": 30, "temperature": 0}
    plain = httpx.post(
        server.url + CHAT, json={"model": "smollm2", **body}, headers={"x-request-id": "told"}, timeout=PATIENCE_S
    ).json()
    whole = post(server, CHAT, body)
    assert whole.data[-1] == "[DONE]"
    assert len(whole.data) == 2
    assert len(whole.commits) >= 10
    for ids, data in some(whole.commits):
        assert data == []
        rest = post(server, CHAT, {**body, "continuation": {"token_ids": ids, "created": plain["created"]}})
        answer = json.loads(rest.data[0])
        for each in (answer, plain):
            each["usage"].pop("prompt_tokens_details", None)
        assert answer == plain


def test_the_journal_tells_what_the_cache_had(server: Server) -> None:
    body = {"prompt": list(range(100, 180)), "max_tokens": 4, "cache_salt": "journal"}
    assert post(server, PLAIN, body).cached == 0
    assert post(server, PLAIN, body).cached >= 64


def test_several_answers_have_no_journal(server: Server) -> None:
    body = {"model": "smollm2", "prompt": "hi", "n": 2, "max_tokens": 4, "stream": True}
    answer = httpx.post(server.url + PLAIN, json=body, headers=JOURNAL, timeout=PATIENCE_S)
    assert "x-topmast-journal" not in answer.headers
    assert "\n: " not in answer.text


def test_a_continuation_that_cannot_be_is_refused_with_its_reason(server: Server) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"continuation": {"token_ids": []}}, "at least 1 item"),
        ({"continuation": {"token_ids": [10**8]}}, "does not exist"),
        ({"continuation": {"token_ids": [5] * 4}}, "as many as the answer may have"),
        ({"continuation": {"token_ids": [5]}, "n": 2}, "set n to 1"),
        ({"continuation": {"token_ids": [5]}, "prompt": ["a", "b"]}, "send one prompt"),
    ]
    for fields, reason in wrong:
        body = {"model": "smollm2", "prompt": "hi", "max_tokens": 4, **fields}
        answer = httpx.post(server.url + PLAIN, json=body, headers=JOURNAL, timeout=PATIENCE_S)
        assert answer.status_code == 400
        assert reason in answer.json()["error"]["message"]


def test_an_error_in_a_journal_carries_its_status(server: Server) -> None:
    body = {"model": "smollm2", "prompt": "hi", "max_tokens": 8000, "ignore_eos": True}
    for timeout_s in (0.3, 3, 30):  # time enough for a first token, and not for all of them
        late = {**body, "timeout": timeout_s}
        answer = httpx.post(server.url + PLAIN, json=late, headers=JOURNAL, timeout=PATIENCE_S)
        if "\n: + " in answer.text:
            break
    *_, error, data, rest = answer.text.split("\n\n")
    assert (error, rest) == (": error 504 0", "")
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"


def text(data: list[str]) -> str:
    chunks = [json.loads(each) for each in data if each != "[DONE]"]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices)


def identity(data: list[str]) -> set[tuple[str, int, str]]:
    chunks = [json.loads(each) for each in data if each != "[DONE]"]
    return {(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}
