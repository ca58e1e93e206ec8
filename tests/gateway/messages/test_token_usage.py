"""What engines without a journal report of their use is believed; nonsense changes nothing."""

from __future__ import annotations

import pytest

from gateway.lab.growth import assert_linear
from topmast_gateway.messages import token_usage
from topmast_gateway.messages.token_usage import TokenUsage

USAGE = b'{"usage":{"prompt_tokens":12,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":5}}}'


def test_an_answers_usage_is_exact() -> None:
    usage = TokenUsage()
    token_usage.read_usage(USAGE, usage)
    assert usage == TokenUsage(12, 5, 7, exact=True)


def test_a_stream_counts_its_events_until_its_usage_comes() -> None:
    usage = TokenUsage()
    token_usage.count_events(b'data: {"a": 1}\n\ndata: {"usage":null}\n\n: alive\n\n', usage)
    assert usage == TokenUsage(output=2)
    token_usage.count_events(b"data: " + USAGE + b"\n\ndata: [DONE]\n\n", usage)
    assert usage == TokenUsage(12, 5, 7, exact=True)


NONSENSE = [
    b"",
    b'"usage":',
    b'["usage":]',
    b'["\\"usage\\":"]',
    b'{"usage":7}',
    b'{"usage":{"prompt_tokens":-1,"completion_tokens":2}}',
    b'{"usage":{"prompt_tokens":true,"completion_tokens":2}}',
    b"[" * 100_000 + b'"usage":',
]


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_no_usage(body: bytes) -> None:
    usage = TokenUsage()
    token_usage.read_usage(body, usage)
    assert usage == TokenUsage()


def test_an_answer_about_event_streams_is_no_more_tokens_for_it() -> None:
    usage = TokenUsage()
    token_usage.count_events(b'data: {"text": "write data: {} and again data: {}"}\n\n', usage)
    token_usage.count_events(b'data: {"text": "so"}\r\n\r\ndata: {"text": "."}\r\n\r\n', usage)
    assert usage == TokenUsage(output=3)


@pytest.mark.parametrize(
    "filler", [b"[],", b"{},", b'{"a":1},', b'"usage":', b'"usage":[', b'"usage":{"a":', b"[", b'{"a":', b"x"]
)
def test_no_answer_takes_long(filler: bytes) -> None:
    """A whole answer of 8 MiB was decoded for its three numbers."""
    count = 64 * 1024 * 1024 // len(filler)
    end = USAGE[1:]

    def read(body: bytes) -> None:
        token_usage.read_usage(body, TokenUsage())

    assert_linear(
        lambda size: b'{"choices":[' + filler * (size // len(filler)) + b"0]," + end, read, count * len(filler)
    )


_TEXT = b'"choices":[{"text":"' + b"x" * 100_000 + b'"}]'


@pytest.mark.parametrize(
    ("before", "after"), [(b"", b""), (_TEXT + b",", b""), (_TEXT + b",", b',"id":"z" '), (b"", b"," + _TEXT)]
)
def test_usage_is_found_at_both_ends_of_an_answer(before: bytes, after: bytes) -> None:
    usage = TokenUsage()
    token_usage.read_usage(b"{" + before + USAGE[1:-1] + after + b"}", usage)
    assert usage == TokenUsage(12, 5, 7, exact=True)


def test_the_word_in_an_answers_text_is_not_taken_for_it() -> None:
    usage = TokenUsage()
    text = b'{"choices":[{"text":"\\"usage\\":{\\"prompt_tokens\\":1,\\"completion_tokens\\":1}"}]}'
    token_usage.read_usage(text, usage)
    assert usage == TokenUsage()
