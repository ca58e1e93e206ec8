"""A journal is read the same however its bytes are cut, and what is dropped is what the next pod makes again."""

from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from topmast_gateway.continuation.journal import Journal
from topmast_gateway.messages.token_usage import TokenUsage

STREAM = (
    b": prompt 12 1700000000\n\n"
    b'data: {"a":1}\n\n: cached 8\n\n: + 7\n\n'
    b": alive\n\n"
    b": + 8\n\n"
    b'data: {"b":2}\n\ndata: {"c":"\\n"}\n\n: + 9 10\n\n'
    b'data: {"d":4}\n\ndata: {"usage":{}}\n\n: end 11 2\n\ndata: [DONE]\n\n'
)
SHOWN = (
    b'data: {"a":1}\n\ndata: {"b":2}\n\ndata: {"c":"\\n"}\n\ndata: {"d":4}\n\ndata: {"usage":{}}\n\ndata: [DONE]\n\n'
)


def feed(journal: Journal, data: bytes, cuts: list[int]) -> bytes:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return b"".join(journal.feed(data[start:end]) for start, end in itertools.pairwise(places))


@given(st.lists(st.integers(0, 10_000), max_size=8))
def test_a_journal_may_be_cut_anywhere(cuts: list[int]) -> None:
    usage = TokenUsage()
    journal = Journal(usage, whole=False)
    assert feed(journal, STREAM, cuts) == SHOWN
    assert journal.done
    assert journal.token_ids == [7, 8, 9, 10, 11, 2]
    assert (usage.prompt, usage.cached, usage.output, usage.exact) == (12, 8, 6, True)


@given(st.integers(0, len(STREAM) - 1), st.lists(st.integers(0, 10_000), max_size=4))
def test_what_was_shown_is_what_the_tokens_stand_for(end: int, cuts: list[int]) -> None:
    """Wherever a stream breaks: shown, and to be made again by whoever gets the tokens, add up to the whole."""
    journal = Journal(TokenUsage(), whole=False)
    shown = feed(journal, STREAM[:end], cuts)
    assert not journal.done
    first, third = SHOWN.index(b'data: {"b"'), SHOWN.index(b'data: {"d"')
    behind = {(): b"", (7,): SHOWN[:first], (7, 8): SHOWN[:first], (7, 8, 9, 10): SHOWN[:third]}
    assert shown == behind[tuple(journal.token_ids)]
    body = json.loads(journal.continued(b'{"model":"m"} \n'))
    if journal.token_ids:
        assert body["continuation"] == {"token_ids": journal.token_ids, "created": 1700000000}
    else:
        assert body == {"model": "m"}
    before = len(journal.token_ids)
    journal.restart()
    rest = journal.feed(b": prompt 12 1800000000\n\n: cached 4\n\n: + 1\n\ndata: [DONE]\n\n")
    assert (rest, journal.created or 1700000000) == (b"data: [DONE]\n\n", journal.created)
    assert len(journal.token_ids) == before + 1


def test_a_whole_answer_is_shown_to_nobody_before_its_end() -> None:
    journal = Journal(TokenUsage(), whole=True)
    assert journal.feed(b": prompt 3 1\n\n: + 5\n\n: + 6\n\n") == b""
    assert journal.feed(b'data: {"id":"x"}\n\n: end 7\n\ndata: [DONE]\n\n') == b""
    assert (journal.done, journal.body, journal.token_ids) == (True, b'{"id":"x"}', [5, 6, 7])


def test_an_error_is_kept_with_its_status() -> None:
    journal = Journal(TokenUsage(), whole=False)
    assert journal.feed(b': prompt 3 1\n\n: error 503 4\n\ndata: {"error":{"code":"draining"}}\n\n') == b""
    assert journal.error is not None
    assert (journal.error.status, journal.error.retry_after_s, journal.error.retryable) == (503, 4, True)


def test_a_prompt_without_an_answer_is_no_estimate() -> None:
    usage = TokenUsage()
    Journal(usage, whole=False).feed(b": prompt 12 1700000000\n\n")
    assert usage == TokenUsage(prompt=12, exact=True)


def test_an_answer_began_when_the_pod_that_made_its_first_token_says() -> None:
    journal = Journal(TokenUsage(), whole=False)
    journal.feed(b": prompt 12 1700000000\n\n")
    journal.restart()
    journal.feed(b": prompt 12 1700000005\n\n: + 1\n\n")  # its first text has told this time to the client
    journal.restart()
    journal.feed(b": prompt 12 1700000009\n\n: + 2\n\n")
    assert json.loads(journal.continued(b"{}").replace(b"{,", b"{"))["continuation"]["created"] == 1700000005
