"""The open-loop driver distinguishes a torn, a failed, a changed and a repeated answer from a good one.

What a killed gateway tore is asked for again elsewhere, and is no failure of a gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator

import pytest

from gateway.lab.stage import eventually
from traffic import Answer, Ask, Log, OpenLoop, Visit, mixed
from traffic.client import Client, begin


def chunk(text: str = "", *, name: str = "a", finish: str | None = None, **delta: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text, **delta}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": name, "choices": [choice]}).encode()


GOOD = [chunk(role="assistant"), chunk("one"), b": alive", chunk(" two"), chunk(finish="stop"), b"data: [DONE]"]


def read(lines: list[bytes]) -> Answer:
    answer = Answer(streams=True, sent_s=time.monotonic())
    for line in lines:
        answer.line(line + b"\n")
        answer.line(b"\n")
    return answer


def test_a_good_answer_is_whole_and_equal_to_itself() -> None:
    answer = read(GOOD)
    assert (answer.error, answer.truncated, answer.difference(read(GOOD))) == (None, False, "")
    assert (answer.text, answer.finish, len(answer.events_s)) == ("one two", "stop", 4)


@pytest.mark.parametrize("lines", [GOOD[:-1], [*GOOD[:4], GOOD[-1]], GOOD[:2], []])
def test_an_answer_without_its_end_is_truncated(lines: list[bytes]) -> None:
    assert read(lines).truncated


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([*GOOD[:2], b'data: {"error": {"code": "stream_lost"}}'], "stream_lost"),
        ([*GOOD[:2], chunk(" two", name="b")], "changed its id"),
        ([*GOOD[:2], *GOOD[:1]], "a second time"),
        ([*GOOD[:2], b": +17 4711"], "tell each other"),
        ([*GOOD[:5], chunk("three")], "after the finish"),
        ([*GOOD, chunk("three")], "after [DONE]"),
        ([b"HTTP/1.1 200 OK"], "not a line"),
    ],
)
def test_what_may_not_be_in_a_stream_is_an_error(lines: list[bytes], says: str) -> None:
    assert says in (read(lines).error or "")


def test_a_different_answer_is_reported_with_its_first_differing_place() -> None:
    other = read([GOOD[0], chunk("one"), chunk(" too"), *GOOD[4:]])
    assert other.difference(read(GOOD)).startswith("at character 5 of 7: 'one too' instead of 'one two'")
    longer = read([*GOOD[:4], chunk(finish="length"), GOOD[-1]])
    assert longer.difference(read(GOOD)) == "finish is length instead of stop"


def test_a_mix_repeats_with_its_seed_and_has_everything() -> None:
    asks = mixed(24, seed=6)
    assert asks == mixed(24, seed=6) != mixed(24, seed=7)
    for wanted in ("stream", "seed", "stop", "ignore_eos", "messages", "prompt"):
        assert any(wanted in ask.fields for ask in asks) and not all(wanted in ask.fields for ask in asks)
    assert {(ask.by_sdk, ask.streams) for ask in asks} == {(True, True), (True, False), (False, True), (False, False)}


# A client that believed the connection to stay would use it while it is being closed.
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
REFUSAL = b"HTTP/1.1 503 Full\r\ncontent-length: 4\r\n\r\nfull"


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (REFUSAL, "503"),
        (b"", "isconnect"),
        (HEAD + b"%x\r\n" % len(GOOD[0] + b"\n\n") + GOOD[0] + b"\n\n\r\n", "after 1 ev"),
    ],
    ids=["refused", "no answer", "torn"],
)
async def test_the_bare_client_and_the_sdk_both_see_a_failure(sent: bytes, says: str) -> None:
    fields = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    async with door(sent) as url, Client("none", "m") as client:
        for by_sdk in (False, True):
            ask = Ask(0, "chat/completions", fields, by_sdk)
            log = Log()
            await client.ask(url, ask, seen := begin(ask))
            log.ended.append(Visit(ask, seen))
            assert says in (seen.error or "") or (by_sdk and "onnection" in (seen.error or "")), (by_sdk, seen.error)
            assert seen.broken == (sent is not REFUSAL)
            with pytest.raises(AssertionError, match="errors: 1 of 1 answers"):
                log.assert_clean()


@contextlib.asynccontextmanager
async def door(sent: bytes) -> AsyncIterator[str]:
    """A server's base URL; it answers every request with these bytes and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        await reader.readexactly(int(length[1]) if length else 0)  # closing on it would reset the connection
        writer.write(sent)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def chunked(lines: list[bytes]) -> bytes:
    """The events as chunks of a body, without its end."""
    return HEAD + b"".join(b"%x\r\n%b\n\n\r\n" % (len(line) + 2, line) for line in lines)


@pytest.mark.parametrize("killed", [True, False])
async def test_a_torn_answer_is_asked_for_elsewhere_where_its_gateway_was_killed_and_else_a_failure(
    killed: bool,
) -> None:
    ask = Ask(0, "chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}, by_sdk=False)
    async with door(chunked(GOOD[:3])) as torn, door(chunked(GOOD) + b"0\r\n\r\n") as good:
        doors = [torn]
        load = OpenLoop(doors, "none", "m", [ask], {0: read(GOOD)}, per_s=100)
        if killed:
            load.log.killed(torn)

        def ask_until(count: int) -> Log:
            with load as log:
                eventually(lambda: len(log.ended) >= 1, "the first one is torn")
                doors[:] = [torn, good]
                eventually(lambda: len(log.ended) >= count, "more of them")
            return log

        log = await asyncio.to_thread(ask_until, 8)
    if killed:
        assert log.errors == [] and len(log.interrupted) == log.retried_fine > 0
        log.assert_clean()
    else:
        assert log.interrupted == [] and log.retried_fine == 0 < len(log.errors)
