"""One connection, raw bytes: what could be read differently by the next proxy, or hold memory or places, is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator

import pytest

from gateway.lab.rawhttp import Seen, listening
from gateway.lab.stage import soon
from topmast_gateway.http import connection, head
from topmast_gateway.http.connection_limits import ConnectionLimits

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
GET = b"GET /ok HTTP/1.1\r\nhost: x\r\n\r\n"


def statuses(answer: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1.1 (\d{3}) ", answer)


@pytest.fixture
async def seen() -> AsyncIterator[Seen]:
    async with listening() as seen:
        yield seen


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        HEAD + b"content-length: 3, 3\r\n\r\nabc",
        HEAD + b"content-length: +3\r\n\r\nabc",
        HEAD + b"content-length: -3\r\n\r\nabc",
        HEAD + b"content-length: 0x3\r\n\r\nabc",
        HEAD + b"content-length: 99999999999999999999999\r\n\r\nabc",
        HEAD + b"content-length:\r\n\r\nabc",
        HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: identity\r\n\r\nabc",
        HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        b"POST /x HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"x-folded: a\r\n b\r\n\r\n",
        HEAD + b"x-nul: a\x00b\r\n\r\n",
        HEAD + b"x-control: \x01\r\n\r\n",
        HEAD + b"x\x00y: a\r\n\r\n",
        HEAD + b": no name\r\n\r\n",
        b"GET / HTTP/1.1\nhost: x\n\n",
        b"GET / HTTP/1.1\r\nhost: x\nx-b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\rx-b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\n host: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
        HEAD + b"authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/0.9\r\nhost: x\r\n\r\n",
        b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET http://x HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n",
        HEAD + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 3\r\n\r\nabc",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_two_readers_could_read_differently_is_a_400_and_reaches_nobody(
    seen: Seen, request_bytes: bytes
) -> None:
    answer = await seen.exchange(request_bytes + GET)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"connection: close" in answer
    assert statuses(answer) == [b"400"]  # what came behind it is not a request
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert seen.bodies == [] and all(request.path != "/ok" for request in seen.requests)


@pytest.mark.parametrize(
    "body",
    [b"-1\r\n", b"0x3\r\nabc\r\n", b"fffffffffffffffff\r\n", b"3\r\nabcdef\r\n", b"3\r\nabc0\r\n\r\n", b"3 \r\nabc\r\n",
     b"3\nabc\n0\n\n", b"3;a\nabc\r\n0\r\n\r\n", b"3;a\rb\r\nabc\r\n0\r\n\r\n", b'3;a="\n"\r\nabc\r\n0\r\n\r\n',
     b"\r\n",
     b"0\r\nauthorization: Bearer z\r\n\r\n"],
)  # fmt: skip
async def test_a_body_with_broken_chunks_ends_the_connection_and_never_becomes_a_request(
    seen: Seen, body: bytes
) -> None:
    for pieces in ((CHUNKED + body + GET,), (CHUNKED, body, GET)):
        answer = await seen.exchange(*pieces)
        assert statuses(answer) == [b"400"]
        assert seen.bodies == [] and all(request.path != "/ok" for request in seen.requests)


async def test_trailers_do_not_become_headers_of_the_request(seen: Seen) -> None:
    await seen.exchange(CHUNKED + b"3\r\nabc\r\n0\r\nauthorization: Bearer z\r\nx-forwarded-for: 10.0.0.1\r\n\r\n")
    for request in seen.requests:
        assert {name for name, _ in request.header_list} == {b"host", b"transfer-encoding"}


@pytest.mark.parametrize("endless", [b"0\r\nx: ", b"3;"])
async def test_endless_trailers_and_chunk_extensions_are_cut_off(seen: Seen, endless: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.port)
    writer.write(CHUNKED + endless)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 64 * 1024 * 1024 and not reader.at_eof():
            writer.write(b"y" * 65_536)
            await writer.drain()
            sent += 65_536
    assert sent < 32 * 1024 * 1024
    writer.close()


async def test_chunk_extensions_and_an_early_end_of_sending_are_fine(seen: Seen) -> None:
    answer = await seen.exchange(CHUNKED + b'3;name=value;q="v"\r\nabc\r\n2\r\nde\r\n0\r\n\r\n', half_close=True)
    assert answer.startswith(b"HTTP/1.1 200 ") and seen.bodies == [b"abcde"]


@pytest.mark.parametrize(
    ("request_bytes", "path"),
    [
        (b"GET http://elsewhere.example/ok HTTP/1.1\r\nhost: x\r\n\r\n", "/ok"),
        (b"GET /ok HTTP/1.0\r\n\r\n", "/ok"),
        (b"GET /ok HTTP/1.1\r\nhost: x\r\nexpect: a-miracle\r\n\r\n", "/ok"),
        (b"\r\n\r\nGET /ok HTTP/1.1\r\nhost: x\r\n\r\n", "/ok"),
    ],
)
async def test_unusual_but_clear_requests_are_served(seen: Seen, request_bytes: bytes, path: str) -> None:
    answer = await seen.exchange(request_bytes)
    assert answer.startswith(b"HTTP/1.1 200 ") and [request.path for request in seen.requests] == [path]


async def test_expect_100_continue_is_answered_before_the_body_comes(seen: Seen) -> None:
    answer = await seen.exchange(HEAD + b"expect: 100-continue\r\ncontent-length: 3\r\n\r\n", b"abc")
    assert answer.startswith(b"HTTP/1.1 100 ") and b"HTTP/1.1 200 " in answer and seen.bodies == [b"abc"]


async def test_requests_sent_ahead_wait_for_a_new_connection(seen: Seen) -> None:
    answer = await seen.exchange(GET * 500)
    assert answer.count(b"HTTP/1.1 200 ") == 1 and b"connection: close" in answer
    assert len(seen.requests) == 1


async def test_a_client_that_sent_ahead_and_left_is_noticed_while_its_request_runs(seen: Seen) -> None:
    seen.hold = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.port)
    writer.write(GET + GET)
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\no"), 30)
    writer.close()
    await soon(lambda: bool(seen.left), "noticed")
    assert seen.left == [True]


async def test_rubbish_behind_a_request_does_not_get_into_its_answer(seen: Seen) -> None:
    seen.hold = asyncio.Event()
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.port)
    writer.write(GET)
    started = await asyncio.wait_for(reader.readuntil(b"\r\n\r\no"), 30)
    writer.write(b"rubbish\x00\r\n\r\n")
    (connection_,) = seen.server.connections
    await soon(lambda: connection_._deaf, "the rubbish is there")
    seen.hold.set()
    assert started.count(b"HTTP/1.1 ") == 1 and await asyncio.wait_for(reader.read(), 30) == b"k"
    writer.close()


async def test_who_was_refused_and_does_not_hang_up_is_cut_off(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LAST_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.port)
    writer.write(b"rubbish\r\n\r\n")
    assert b" 400 " in await asyncio.wait_for(reader.read(), 30)
    await soon(lambda: not seen.server.connections, "the connection is closed")
    with pytest.raises(ConnectionError):
        for _ in range(200):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)
    writer.close()


async def test_many_headers_are_a_431(seen: Seen) -> None:
    few = b"".join(b"x-%d: y\r\n" % number for number in range(100))
    many = b"".join(b"x-%d: y\r\n" % number for number in range(20_000))
    assert (await seen.exchange(HEAD + few + b"content-length: 0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert (await seen.exchange(HEAD + many + b"\r\n")).startswith(b"HTTP/1.1 431 ")
    assert len(seen.requests) == 1


async def test_the_last_header_that_fits_is_taken_and_the_next_is_not(seen: Seen) -> None:
    for count, status in ((head.MAX_HEADERS, b"200"), (head.MAX_HEADERS + 1, b"431")):
        lines = b"GET /ok HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * (count - 1)
        assert statuses(await seen.exchange(lines + b"\r\n")) == [status]
    for size, status in ((head.MAX_HEAD_BYTES - 100, b"200"), (head.MAX_HEAD_BYTES, b"431")):
        for long in (b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nx: %b\r\n\r\n"):
            assert statuses(await seen.exchange(long % (b"y" * size))) == [status]
    assert len(seen.requests) == 3


@pytest.mark.parametrize("endless", [b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n"])
async def test_a_head_is_a_431_as_soon_as_it_is_too_large_whether_or_not_it_ends(seen: Seen, endless: bytes) -> None:
    pieces = [b"y" * 9_000 if endless[-1:] in b"/ " else b"x: " + b"y" * 9_000 + b"\r\n"] * 4
    assert (await seen.exchange(endless, *pieces)).startswith(b"HTTP/1.1 431 ")
    assert seen.requests == []


async def test_more_connections_than_there_may_be_are_closed_at_once_and_leave_the_others_alone(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen.server, "_limits", ConnectionLimits(2))
    kept = [await asyncio.open_connection("127.0.0.1", seen.port) for _ in range(2)]
    await soon(lambda: len(seen.server.connections) == 2, "both are taken")
    assert await seen.seconds_until_closed() < 5  # of ten that a head may take
    for reader, writer in kept:
        writer.write(GET)
        assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"ok"), 30)
        writer.close()


async def test_a_large_body_directly_before_the_next_head_is_no_large_head(seen: Seen) -> None:
    body = b"x" * 60_000
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.port)
    for _ in range(3):
        writer.write(HEAD + b"content-length: 60000\r\n\r\n" + body)
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 30)).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert seen.bodies == [body] * 3


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        (b"", b""),
        (b"GET /", b""),
        (b"GET / HTTP/1.1\r\n", b"x: y\r\n"),
        (b"GET / HTTP/1.1\r\nx: ", b"y"),
        (b"", b"\r\n"),
        (GET, b"\r\n"),
    ],
)
async def test_a_head_that_never_ends_does_not_hold_the_connection(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, sent: bytes, drip: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    assert await seen.seconds_until_closed(sent, drip=drip) < 5


@pytest.mark.parametrize("head", [HEAD + b"content-length: 9000000\r\n\r\n", CHUNKED])
@pytest.mark.parametrize("drip", [b"", b"1\r\ny\r\n"])
async def test_who_was_refused_cannot_hold_the_connection_with_a_body_that_never_ends(
    seen: Seen, monkeypatch: pytest.MonkeyPatch, head: bytes, drip: bytes
) -> None:
    seen.refuse = True
    monkeypatch.setattr(connection, "_LINGER_S", 0.3)
    assert await seen.seconds_until_closed(head, drip=drip) < 5


async def test_a_connection_stays_after_a_refused_request_whose_body_came_late(seen: Seen) -> None:
    seen.refuse = True
    reader, writer = await asyncio.open_connection("127.0.0.1", seen.port)
    writer.write(HEAD + b"content-length: 3\r\n\r\n")
    assert b" 401 " in await asyncio.wait_for(reader.readuntil(b"no"), 30)
    writer.write(b"abc")
    seen.refuse = False
    await asyncio.sleep(0.05)
    writer.write(GET)
    assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"ok"), 30)
    writer.close()


async def test_a_refused_request_with_a_broken_body_gets_one_answer_not_two(
    seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    seen.refuse = True
    assert statuses(await seen.exchange(CHUNKED + b"-1\r\n")) == [b"400"]
    assert statuses(await seen.exchange(CHUNKED, b"-1\r\n")) == [b"401"]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_silent_client_does_not_keep_a_server_that_leaves(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LAST_USE_S", 0.3)  # else five, and for others a minute
    closed = asyncio.create_task(seen.seconds_until_closed(GET))
    await soon(lambda: bool(seen.bodies), "its request is answered")
    seen.server.leave()
    assert 0.2 < await closed < 4
