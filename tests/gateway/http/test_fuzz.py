"""Any bytes at all: the connection and the application behind it answer 2xx or 4xx, or close. Never a 500."""

from __future__ import annotations

import asyncio
import json

import hypothesis
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.stage import KEY
from gateway.lab.wire import Answers, application, talked
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.requests import parse

ASK = b'{"model": "m"}'
FRAGMENTS = [
    b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"PRI * HTTP/2.0", b"/v1/models", b"/v1/chat/completions", b"*",
    b"http://x/",
    b"%2e%2e/%00%ff", b"?a=b#c", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/2.0\r\n", b"\r\n", b"\n", b"\r",
    b"\r\n\r\n",
    b"host: x\r\n", f"authorization: Bearer {KEY}\r\n".encode(), b"authorization: Bearer tm-wrong\r\n",
    b"content-length: 14\r\n", b"content-length: 3\r\n", b"content-length: ", b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: gzip\r\n", b"expect: 100-continue\r\n", b"connection: close\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n", b"content-encoding: gzip\r\n", b"x-request-id: \xff\r\n",
    b" folded\r\n", b":",
    b"e\r\n" + ASK + b"\r\n", b"0\r\n\r\n", b"0\r\nhost: y\r\n\r\n", b"3;x=y\r\n", b"fffffffffffffff\r\n", b"-1\r\n",
    ASK,
    b"\x00",
    f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n".encode(),
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode(),
]  # fmt: skip
PIECES = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=12), max_size=14)


@hypothesis.settings(max_examples=400, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@given(PIECES, st.booleans())
def test_no_bytes_get_more_than_an_honest_answer(pieces: list[bytes], at_once: bool) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        written, complaints = runner.run(talked(application(), [b"".join(pieces)] if at_once else pieces))
    assert complaints == []
    statuses = [status for status in Answers(written).statuses if status != 100]
    assert all(status in (200, 503) or 400 <= status < 500 for status in statuses)
    assert b'"internal"' not in written and KEY.encode() not in written


def test_the_fuzz_reaches_the_application() -> None:
    """Guards the test above: fragments make requests that are served."""
    for fragments, status in (
        ((FRAGMENTS[-2],), 200),
        ((FRAGMENTS[-1], b"content-length: 14\r\n", b"\r\n", ASK), 503),
        ((FRAGMENTS[-1], b"transfer-encoding: chunked\r\n", b"\r\n", b"e\r\n" + ASK + b"\r\n", b"0\r\n\r\n"), 503),
        ((FRAGMENTS[-1], b"content-length: 3\r\n", b"\r\n", b"abc"), 400),
    ):
        with asyncio.Runner() as runner:
            written, _ = runner.run(talked(application(), list(fragments)))
        assert Answers(written).statuses == [status]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(["model", "stream", "max_tokens", "max_completion_tokens", "n", "messages"]), JSON
)


@given(st.binary(max_size=60) | (FIELDS | JSON).map(lambda value: json.dumps(value).encode()), st.integers(0, 80))
def test_no_body_is_more_than_a_request_or_a_400(body: bytes, cut: int) -> None:
    for candidate in (body, body[:cut], body + b"}", b"\xef\xbb\xbf" + body, body.decode("latin-1").encode("utf-16")):
        try:
            ask = parse.parse_completion("/v1/completions", candidate)
        except ApiError as refusal:
            assert refusal.status == 400 and json.loads(refusal.body())["error"]["message"]
        else:
            assert ask.model and ask.body == candidate and ask.tokens >= 1


@pytest.mark.parametrize(
    ("model", "status"),
    [
        *((name, 404) for name in ("\x00", "a" * 100_000, "../../metrics", "{}", "%s %d", "ns/m/x", "/", "ns/")),
        ("\ud800", 400),  # half a pair is no text
    ],
)
async def test_any_name_of_a_model_is_an_error_that_can_be_sent(model: str, status: int) -> None:
    body = json.dumps({"model": model}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    written, complaints = await talked(application(), [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body])
    assert Answers(written).statuses == [status] and complaints == [] and len(written) < 5000
