"""However a request is made, a connection's work grows with its bytes, and no piece of it stops the loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.growth import assert_growth, assert_linear
from gateway.lab.stage import KEY
from gateway.lab.wire import Answers, application, talked
from topmast_gateway.http.head import MAX_HEAD_BYTES, MAX_HEADERS
from topmast_gateway.http.listener import Handler
from topmast_gateway.messages.completion import MAX_BODY_BYTES
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.request import ClientDisconnected, Header, Request
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.requests.body import read_body

GET = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
AUTHORIZED = f"authorization: Bearer {KEY}\r\n".encode()
READ_BYTES = 256 * 1024  # what a transport reads at once, at most
ROOM = 512  # in a head, for what is the same in all of them

Make = Callable[[int], bytes]


def filled(before: bytes, filler: bytes, after: bytes = b"\r\n\r\n") -> Make:
    return lambda size: before + filler * (size // len(filler)) + after


def equal_headers(size: int) -> bytes:
    """As many as may be, and together as long as may be."""
    count = MAX_HEADERS - 4
    value = b"v" * max(0, size // count - len(b"x-000: \r\n"))
    return GET + AUTHORIZED + b"".join(b"x-%03d: %b\r\n" % (n, value) for n in range(count)) + b"\r\n"


async def reading(request: Request, writer: ResponseWriter) -> None:
    """As the pipeline does."""
    try:
        body = await read_body(request, lambda more: None)
    except ClientDisconnected:
        return
    except ApiError as error:
        writer.whole(error.status, b"")
    else:
        writer.whole(200, b"%d" % len(body))


def statuses(handler: Handler, pieces: Iterable[bytes], turns: int = 1) -> list[int]:
    with asyncio.Runner() as runner:
        written, complaints = runner.run(talked(handler, pieces, turns))
    assert complaints == []
    return Answers(written).statuses


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


HEADS = [
    equal_headers,
    filled(GET + AUTHORIZED + b"x: ", b"v"),
    filled(GET + AUTHORIZED, b"n", b": v\r\n\r\n"),
    filled(GET + AUTHORIZED + b"x: ", b" "),
    filled(GET + AUTHORIZED + b"cookie: ", b"a=b; "),
    filled(GET + AUTHORIZED + b"connection: ", b"x,"),
    filled(GET + b"authorization: ", b"Bearer "),
    filled(GET + b"authorization: Bearer ", b"a."),
    filled(GET + AUTHORIZED + b"x-forwarded-for: ", b"1,"),
    filled(GET + AUTHORIZED + b"forwarded: ", b'for="['),
    filled(GET + AUTHORIZED + b"x-request-id: ", b"r"),
    filled(GET + AUTHORIZED + b"traceparent: ", b"00-"),
    filled(GET + AUTHORIZED + b"origin: ", b"http://"),
    *(
        filled(b"GET /" + before, filler, b" HTTP/1.1\r\nhost: x\r\n" + AUTHORIZED + b"\r\n")
        for before, filler in (
            (b"", b"%41"), (b"", b"%ff"), (b"", b"%c3a"), (b"", b"%"), (b"", b"/"), (b"", b"../"), (b"", b"a"),
            (b"v1/models?", b"a=b&"), (b"v1/models?", b"%"), (b"?", b"?"), (b"?#", b"#"),
        )
    ),
    filled(b"GET http://", b"x.", b"/v1/models HTTP/1.1\r\nhost: x\r\n\r\n"),
]  # fmt: skip


@pytest.mark.parametrize("make", HEADS)
def test_no_head_takes_long(make: Make) -> None:
    """With all that the application does to answer it."""
    app, largest = application(), MAX_HEAD_BYTES - ROOM
    (status,) = statuses(app, [make(largest)], 3)
    assert status == 200 or 400 <= status < 500
    assert statuses(app, cut(make(largest), 1000), 3) == [status]
    assert_linear(make, lambda head: statuses(app, [head], 3), largest)


FLOODS = [
    (filled(GET, b"a: b\r\n"), 431),
    (filled(GET + b"x: ", b"v"), 431),
    (filled(b"GET /", b"%41"), 431),
    (filled(b"", b"\r\n"), 431),
    (filled(b"\r\n", b"\n"), 431),
    (filled(GET + b"\r\n", b"\r\n"), 200),
    (filled(GET + b"\r\n", GET + b"\r\n"), 200),
    (filled(CHUNKED + b"1;", b"x"), 400),
    (filled(CHUNKED + b"1;", b"x=y;"), 400),
    (filled(CHUNKED + b'1;x="', b"\\"), 400),
    (filled(CHUNKED, b"1;x\r\na\r\n", b"0\r\n\r\n"), 200),
    (filled(CHUNKED, b"0"), 200),
    (filled(CHUNKED + b"0\r\n", b"t: u\r\n"), 400),
    (filled(CHUNKED + b"0\r\nt: ", b"u"), 400),
    (filled(CHUNKED, b"1\r\na\r\n", b"0\r\n\r\n"), 200),
    (filled(CHUNKED, b"00000001\r\na\r\n", b"0\r\n\r\n"), 200),
    (filled(b"", b"\x00"), 400),
    (filled(POST + b"content-length: ", b"1"), 400),
]


@pytest.mark.parametrize(("make", "status"), FLOODS)
def test_no_piece_that_is_read_at_once_takes_long(make: Make, status: int) -> None:
    assert statuses(reading, [make(READ_BYTES)]) == [status]
    assert_linear(make, lambda data: statuses(reading, [data]), READ_BYTES)


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (equal_headers, 200),
        (filled(GET + b"x: ", b"v"), 200),
        (filled(GET, b"n", b": v\r\n\r\n"), 200),
        (filled(b"GET /", b"%41", b" HTTP/1.1\r\nhost: x\r\n\r\n"), 200),
        (filled(b"", b"\r\n", GET + b"\r\n"), 200),
        (filled(CHUNKED + b"1;", b"x", b"\r\n"), 400),
        (filled(CHUNKED + b"0\r\n", b"t"), 400),
        (filled(CHUNKED, b"1\r\na\r\n", b"0\r\n\r\n"), 200),
    ],
)
def test_a_request_byte_by_byte_takes_time_by_its_bytes(make: Make, status: int) -> None:
    """Every byte has a turn of the loop of its own."""
    largest = MAX_HEAD_BYTES - ROOM
    assert statuses(reading, cut(make(largest), 1)) == [status]
    assert_growth(lambda size: cut(make(size), 1), functools.partial(statuses, reading), largest)


@pytest.mark.parametrize("over", range(-40, 60, 20))
def test_a_head_is_as_large_however_it_is_cut(over: int) -> None:
    """One of many short headers was taken at once and refused in pieces: what stands between them was not counted."""
    value = b"v" * ((MAX_HEAD_BYTES + over - len(GET)) // 100 - len(b"x-00: \r\n"))
    head = GET + b"".join(b"x-%02d: %b\r\n" % (n, value) for n in range(100)) + b"\r\n"
    first = statuses(reading, [head])
    assert first == [431 if len(head) > MAX_HEAD_BYTES else 200]
    assert statuses(reading, cut(head, 1)) == statuses(reading, cut(head, 5000)) == first


@pytest.mark.parametrize("size", [8, 64, 4096, 1024 * 1024])
def test_a_body_in_chunks_takes_time_by_its_bytes(size: int) -> None:
    """Each piece that is read has a turn of its own. Of the smallest chunks fewer: they have more bytes around them."""
    chunk = b"%x\r\n%b\r\n" % (size, b"a" * size)
    largest = MAX_BODY_BYTES // 4 if size < 64 else MAX_BODY_BYTES

    def make(body_bytes: int) -> list[bytes]:
        return cut(CHUNKED + chunk * (body_bytes // size) + b"0\r\n\r\n", READ_BYTES)

    assert statuses(reading, make(largest)) == [200]
    assert_growth(make, functools.partial(statuses, reading), largest)
    if size >= 64:
        assert statuses(reading, make(largest + size)) == [413]


def test_a_body_in_small_pieces_takes_time_by_its_bytes() -> None:
    def make(size: int) -> list[bytes]:
        return [POST + b"content-length: %d\r\n\r\n" % size, *cut(b"a" * size, 1024)]

    assert statuses(reading, make(MAX_BODY_BYTES)) == [200]
    assert_growth(make, functools.partial(statuses, reading), MAX_BODY_BYTES)


def test_requests_on_one_connection_take_time_by_their_number() -> None:
    def make(count: int) -> list[bytes]:
        return [GET + b"\r\n"] * count

    assert statuses(reading, make(800), 3) == [200] * 800
    assert_growth(make, lambda pieces: statuses(reading, pieces, 3), 800)


TOKENS = st.text("abcdefXYZ-_0", min_size=1, max_size=12).map(str.encode)
HEADERS = st.lists(st.tuples(TOKENS.map(lambda name: b"x-" + name), TOKENS), max_size=6)
BODIES = st.lists(st.binary(min_size=1, max_size=300), max_size=8)
CUTS = st.lists(st.integers(1, 40), max_size=60)


@hypothesis.settings(max_examples=150, deadline=None)
@given(TOKENS, HEADERS, BODIES, st.none() | TOKENS, CUTS, st.integers(0, 3))
def test_a_request_is_read_the_same_however_it_is_cut(
    path: bytes, headers: list[Header], chunks: list[bytes], extension: bytes | None, cuts: list[int], empty: int
) -> None:
    seen: list[tuple[str, list[Header], bytes]] = []

    async def handler(request: Request, writer: ResponseWriter) -> None:
        body = await read_body(request, lambda more: None)
        seen.append((request.path, request.header_list, bytes(body)))
        writer.whole(200, b"ok")

    after = b"" if extension is None else b";" + extension
    data = b"\r\n" * empty + b"POST /" + path + b" HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
    data += b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"
    data += b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), after, chunk) for chunk in chunks) + b"0\r\n\r\n"
    pieces, rest = [], data
    for size in cuts:
        pieces.append(rest[:size])
        rest = rest[size:]
    sent = [(name.lower(), value) for name, value in headers]
    expected = (f"/{path.decode()}", [(b"host", b"x"), (b"transfer-encoding", b"chunked"), *sent], b"".join(chunks))
    for way in ([data], [piece for piece in (*pieces, rest) if piece], cut(data, 1)):
        seen.clear()
        assert statuses(handler, way, 2) == [200] and seen == [expected]
