"""A journal is read the same however its bytes are cut, and what is dropped is what the next pod makes again."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.growth import assert_linear
from topmast_gateway.continuation import journal as journals
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


BLOCKS = st.sampled_from(
    [
        b'data: {"a":1}\n\n: + 7\n\n',
        b'data: {"a":1}\n\n: + 7 8\n\n',
        b'data: {"a":1}\n\n: + 9999999999\n\n',
        b'data: {"a":1}\n\n: + 7\n',
        b'data: {"a":1}\n\n: + 7\r\n\r\n',
        b'data: {"a":1}\n\n: + \xb2\n\n',
        b'data: {"a":1}\n\n: + 07\n\n',
        b'data: {"a":1}\n\ndata: {"b":2}\n\n: + 7\n\n',
        b'data: {"a":1}\n\n',
        b"data: a\n\n: + 7\n\n",
        b": + 8\n\n",
        b": alive\n\n",
        b": error 503 1\n\n",
        b"\n",
    ]
)


@given(st.lists(BLOCKS, max_size=8), st.booleans(), st.integers(1, 9))
def test_pieces_as_engines_write_them_are_read_as_single_bytes_are(
    blocks: list[bytes], whole: bool, most_tokens: int
) -> None:
    """What comes for nearly every token has a way of its own, which must not lead elsewhere."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journals, "_MOST_TOKENS", most_tokens)
        for pieces in (blocks, [bytes([byte]) for byte in b"".join(blocks)]):
            journal = Journal(usage := TokenUsage(), whole=whole)
            shown = b"".join(map(journal.feed, pieces))
            found.append((shown, journal.token_ids, usage, journal.error, journal.wrong))
    assert found[0] == found[1]


@given(st.integers(0, len(STREAM) - 1), st.lists(st.integers(0, 10_000), max_size=4))
def test_what_was_shown_is_what_the_tokens_stand_for(end: int, cuts: list[int]) -> None:
    """Wherever a stream breaks: shown, and to be generated again by whoever gets the tokens, add up to the whole."""
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


def test_an_answer_began_when_the_pod_that_generated_its_first_token_says() -> None:
    journal = Journal(TokenUsage(), whole=False)
    journal.feed(b": prompt 12 1700000000\n\n")
    journal.restart()
    journal.feed(b": prompt 12 1700000005\n\n: + 1\n\n")  # its first text has shown this time to the client
    journal.restart()
    journal.feed(b": prompt 12 1700000009\n\n: + 2\n\n")
    assert json.loads(journal.continued(b"{}").replace(b"{,", b"{"))["continuation"]["created"] == 1700000005


@pytest.mark.parametrize(
    "line",
    [
        b": + SECRET-WORD",
        b": + 1 -2",
        b": + " + b"9" * 5000,
        b": + 99999999999",
        b": end x",
        b": prompt 1",
        b": prompt 1 2 3",
        b": prompt -1 2",
        b": cached",
        b": cached 1 2",
        b": error 200 0",
        b": error 99 0",
        b": error 503",
        b": error 503 " + b"9" * 20,
    ],
)
def test_a_line_that_no_journal_has_ends_it_and_nothing_of_it_is_repeated(line: bytes) -> None:
    """It was a ValueError: a 500 of the gateway's own, and what the engine wrote in its log."""
    journal = Journal(TokenUsage(), whole=False)
    first = line.startswith((b": prompt", b": cached"))  # these count before the first token alone
    shown = journal.feed((b"" if first else b"data: 1\n\n: + 5\n\ndata: 2\n\n") + line + b"\n\n: + 6\n\n")
    assert journal.wrong and "SECRET" not in journal.wrong and "9999" not in journal.wrong
    assert (shown, journal.token_ids) == ((b"", []) if first else (b"data: 1\n\n", [5])), "what came before it counts"
    assert journal.feed(b": + 7\n\n") == b"" and 7 not in journal.token_ids and not journal.done
    journal.restart()
    assert not journal.wrong and journal.feed(b"data: 2\n\n: + 6\n\n") == b"data: 2\n\n"


@given(st.binary(max_size=200), st.lists(st.integers(0, 300), max_size=4), st.booleans())
def test_no_bytes_are_an_error(data: bytes, cuts: list[int], whole: bool) -> None:
    feed(Journal(TokenUsage(), whole=whole), STREAM[:40] + data + b"\n\n" + STREAM[40:], cuts)


@pytest.mark.parametrize("block", [b"data: x\n\n", b"\n\n", b": alive\n\n", b"x", b"data: " + b"x" * 5000 + b"\n\n"])
@pytest.mark.parametrize("whole", [False, True])
def test_what_comes_without_tokens_is_kept_within_a_bound(
    block: bytes, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "_LARGEST_ANSWER_BYTES", 100_000)
    journal = Journal(TokenUsage(), whole=whole)
    if block == b": alive\n\n":
        feed(journal, block * 50_000, [])
        assert journal._data == []
        return
    for _ in range(50_000):
        journal.feed(block * 10)
        if journal.wrong:
            break
    assert journal.wrong


@pytest.mark.parametrize(
    "block", [b": + 1\n\n", b"data: x\n\n: + 1 2 3\n\n", b": + " + b"1 " * 100 + b"\n\n", b"data: x\n"]
)
def test_a_journal_is_read_in_linear_time(block: bytes) -> None:
    def read(pieces: list[bytes]) -> None:
        journal = Journal(TokenUsage(), whole=False)
        for piece in pieces:
            journal.feed(piece)

    def pieces(size: int) -> list[bytes]:
        return [block * (1024 // len(block))] * (size // 1024)

    assert_linear(pieces, read, 256 * 1024)


def test_an_answer_has_not_more_tokens_than_any_model_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_MOST_TOKENS", 5)
    journal = Journal(TokenUsage(), whole=False)
    journal.feed(b": + 1 2 3 4 5\n\n")
    journal.feed(b": + 6\n\n")
    assert journal.wrong and journal.token_ids == [1, 2, 3, 4, 5]
