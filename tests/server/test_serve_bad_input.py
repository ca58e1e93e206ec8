"""Nothing that a client sends may bring the server down; every refusal is a 4xx in OpenAI's envelope with a remedy."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from server.serving import PATIENCE_S, Server

CHAT: dict[str, Any] = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


def refused(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error object; asserts the envelope."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert len(error["message"]) > 20
    return dict(error)


@pytest.fixture(autouse=True)
def still_answers(server: Server):  # type: ignore[no-untyped-def]
    """Whatever the test sent, the server answers afterwards and holds nothing."""
    yield
    assert httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, timeout=PATIENCE_S).status_code == 200
    server.wait_idle()


def post(server: Server, body: object, route: str = "chat/completions") -> httpx.Response:
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return httpx.post(f"{server.url}/v1/{route}", content=content, timeout=PATIENCE_S)


@pytest.mark.parametrize("body", ["{", "", "[]", '"text"', "[" * 100_000, '{"model":' * 20_000, b"\xff\xfe\x00"])
def test_malformed_json(server: Server, body: str | bytes) -> None:
    assert "JSON" in refused(post(server, body), 400)["message"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", float("nan")), ("temperature", -1), ("n", 10**6), ("max_tokens", -5), ("top_p", float("inf"))],
)
def test_absurd_parameters(server: Server, name: str, value: float) -> None:
    assert refused(post(server, {**CHAT, name: value}), 400)["param"] == name


HOSTILE: list[Any] = [
    *(None, True, 0, 1, -1, 0.5, 2**31, 2**63, -(2**63), 1e308, float("nan"), float("-inf")),
    *("", "x", "\x00", "\ud800", "1", "x" * 5000, [], [[]], [None], [0], ["x"] * 100, {}, {"x": {}}, [1, "x", None]),
]
FIELDS = (
    *("model", "messages", "max_tokens", "max_completion_tokens", "n", "best_of", "temperature", "top_p", "top_k"),
    *("min_p", "seed", "stop", "stop_token_ids", "ignore_eos", "stream", "stream_options", "chat_template_kwargs"),
    *("priority", "timeout", "cache_salt", "timing", "logit_bias", "logprobs", "tools", "response_format", "user"),
)


@pytest.mark.parametrize("field", FIELDS)
def test_whatever_a_field_holds_is_answered_or_refused(server: Server, field: str) -> None:
    endless = {"stop": "a"} if field == "max_tokens" else {}  # null is no limit
    with httpx.Client(timeout=PATIENCE_S) as sender:
        for value in HOSTILE:
            body = json.dumps({**CHAT, **endless, field: value})
            answer = sender.post(f"{server.url}/v1/chat/completions", content=body)
            if field == "timeout" and answer.status_code in (503, 504):
                assert answer.json()["error"]["code"] == "deadline_exceeded"  # a second is short on a busy machine
            elif answer.status_code != 200:
                unknown = field == "model" and answer.status_code == 404
                refused(answer, 404 if unknown else 400)


def test_an_unknown_model_is_a_404_that_names_the_known_ones(server: Server) -> None:
    error = refused(post(server, {**CHAT, "model": "gpt-9"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "smollm2" in error["message"]
    refused(httpx.get(f"{server.url}/v1/models/gpt-9", timeout=PATIENCE_S), 404)


def test_the_client_library_understands_the_envelope(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.completions.create(model="gpt-9", prompt="x")
    with pytest.raises(openai.BadRequestError, match="leave it out"):
        client.completions.create(model="smollm2", prompt="x", logprobs=3)


def test_unknown_routes_and_methods(server: Server) -> None:
    assert "/v1/models" in refused(httpx.get(f"{server.url}/v2/anything", timeout=PATIENCE_S), 404)["message"]
    wrong = httpx.get(f"{server.url}/v1/chat/completions", timeout=PATIENCE_S)
    refused(wrong, 405)
    assert wrong.headers["allow"] == "POST"
    refused(httpx.post(f"{server.url}/health", timeout=PATIENCE_S), 405)


def test_the_admin_routes_are_not_on_the_public_port(server: Server) -> None:
    refused(httpx.get(f"{server.url}/state", timeout=PATIENCE_S), 404)
    refused(httpx.post(f"{server.url}/drain", timeout=PATIENCE_S), 404)


def test_a_10_mb_prompt_is_turned_away_unread(server: Server) -> None:
    body = {**CHAT, "messages": [{"role": "user", "content": "word " * 2_000_000}]}
    error = refused(post(server, body), 413)
    assert "8 MiB" in error["message"]


def test_a_10_mb_body_without_a_length_is_turned_away(server: Server) -> None:
    pieces = (b"x" * 65536 for _ in range(160))
    refused(httpx.post(f"{server.url}/v1/completions", content=pieces, timeout=PATIENCE_S), 413)


def test_a_client_that_asks_first_need_not_send_10_mb(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(server: Server) -> None:
    context = server.state()["capacity"]["max_model_len"]
    prompt = "word " * (context + 500)
    error = refused(post(server, {"model": "smollm2", "prompt": prompt}, "completions"), 400)
    assert error["code"] == "context_length_exceeded"
    assert str(context) in error["message"]
    # Far too long to be worth tokenising, and still within the body's limit.
    refused(post(server, {"model": "smollm2", "prompt": "word " * 1_500_000}, "completions"), 400)
    more = {**CHAT, "max_tokens": context}
    assert str(context) in refused(post(server, more), 400)["message"]


def test_token_ids_beyond_the_vocabulary_are_refused(server: Server) -> None:
    error = refused(post(server, {"model": "smollm2", "prompt": [1, 10**6]}, "completions"), 400)
    assert "1000000" in error["message"]


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt_is_refused(server: Server, prompt: object) -> None:
    assert refused(post(server, {"model": "smollm2", "prompt": prompt}, "completions"), 400)["param"] == "prompt"


def test_images_are_refused_by_name(server: Server) -> None:
    part = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}
    error = refused(post(server, {**CHAT, "messages": [{"role": "user", "content": [part]}]}), 400)
    assert "image_url" in error["message"]


def test_what_is_not_http_is_survived(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n")
        connection.settimeout(PATIENCE_S)
        assert b"HTTP/1.1 2" not in connection.recv(4096)


def test_endless_headers_are_cut_off(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX-Long: ")
        answer = b""
        try:
            for _ in range(1000):
                connection.sendall(b"a" * 65536)
        except (ConnectionResetError, BrokenPipeError):
            pass
        else:
            pytest.fail("64 MiB of headers were taken")
        try:
            answer = connection.recv(4096)
        except ConnectionResetError:
            return  # the answer was overtaken by the reset
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")


def test_many_large_bodies_at_once_take_a_bounded_part_of_memory_and_shut_nobody_out(server: Server) -> None:
    """Sixty of them, a byte short of complete, took half a gigabyte."""
    host, port = server.url.removeprefix("http://").split(":")
    before, size = resident_mib(server), 8 * 2**20
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_S)) for _ in range(24)
        ]
        for one in clients:
            one.sendall(head + b'{"model": "smollm2", "prompt": "' + b"w" * (size - 33))
        assert post(server, CHAT).status_code == 200
        assert resident_mib(server) - before < 160
        for one in clients:
            one.sendall(b"w")
        answers = [one.recv(4096) for one in clients]
    full = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503")]
    assert len(full) >= 24 - 8 - 1 and all(b"too many large requests" in answer for answer in full)
    assert all(answer.startswith(b"HTTP/1.1 400") for answer in answers if answer not in full)


def resident_mib(server: Server) -> int:
    """Of the process that reads requests."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) // 1024
