"""Connections to engines: every framing of HTTP/1.1, however it is cut; kept where that is safe, and never deaf."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.lab.stage import soon
from topmast_gateway.routing.model_table import Pod
from topmast_gateway.upstream.connection_pool import ConnectionPool
from topmast_gateway.upstream.engine_response import EngineResponse
from topmast_gateway.upstream.failures import BadAnswer, ConnectionLost, ConnectionRefused
from topmast_gateway.upstream.http_client import EngineConnection, _chunk_head

ADDRESS = "127.0.0.1"
LARGEST = 64 * 1024 * 1024
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbody"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server of raw bytes. `connections` counts them; `requests` are the bytes that came, `left` who hung up."""

    def __init__(self, *answers: bytes, close: bool = False) -> None:
        self._answers, self._close = list(answers), close
        self.connections = self.left = 0
        self.requests: list[bytes] = []
        self.pod = Pod("uid", "ns", "pod", "ns/m", "")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                for part in self._answers:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self._close:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
        finally:
            writer.close()


@asynccontextmanager
async def listening(peer: Peer) -> AsyncIterator[ConnectionPool]:
    """The peer on a port of its own, and a pool for it."""
    server = await asyncio.start_server(peer.serve, ADDRESS, 0)
    peer.pod = Pod("uid", "ns", "pod", "ns/m", f"{ADDRESS}:{server.sockets[0].getsockname()[1]}")
    engines = ConnectionPool()
    try:
        yield engines
    finally:
        engines.close()
        server.close()


@asynccontextmanager
async def posted(
    engines: ConnectionPool, peer: Peer, body: bytes, headers: dict[str, str], wait_s: float = 10
) -> AsyncIterator[EngineResponse]:
    """An answer whose connection is given back."""
    connection, response = await engines.post(peer.pod, "/v1/completions", body, headers, wait_s)
    try:
        yield response
    finally:
        engines.release(peer.pod, connection)


async def ask(engines: ConnectionPool, peer: Peer, body: bytes = b"{}", largest: int = LARGEST) -> tuple[int, bytes]:
    async with asyncio.timeout(10), posted(engines, peer, body, {"x-a": "1"}) as response:
        return response.status, await response.read(largest)


async def test_a_request_is_sent_as_it_is_and_its_answer_read_to_the_end() -> None:
    peer = Peer(SIZED)
    async with (
        listening(peer) as engines,
        posted(engines, peer, b'{"a": 1}', {"x-a": "1"}) as response,
    ):
        assert response.headers == [(b"content-type", b"text/plain"), (b"content-length", b"4")]
        assert response.header(b"content-type") == b"text/plain" and response.header(b"x-none") is None
        assert (response.status, await response.read(LARGEST), await response.chunk()) == (200, b"body", b"")
    host = peer.pod.address.encode()
    assert peer.requests == [
        b"POST /v1/completions HTTP/1.1\r\nhost: " + host + b"\r\nx-a: 1\r\ncontent-length: 8\r\n\r\n" + b'{"a": 1}'
    ]


@pytest.mark.parametrize(
    ("answer", "close"),
    [
        (SIZED, False),
        (CHUNKED + b"2\r\nbo\r\n2;x=y\r\ndy\r\n0\r\nX-Trailer: 1\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\nbody", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SIZED, False),
    ],
    ids=["sized", "chunked", "until-close", "after-informational"],
)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_every_framing_is_read_however_it_is_cut(answer: bytes, close: bool, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1), max_size=6)))
    parts = [answer[start:end] for start, end in zip([0, *cuts], [*cuts, len(answer)], strict=True)]

    async def run() -> None:
        peer = Peer(*parts, close=close)
        async with listening(peer) as engines, posted(engines, peer, b"{}", {}) as response:
            assert (response.status, await response.read(LARGEST)) == (200, b"body")
            assert {name for name, _ in response.headers} <= {b"content-type", b"content-length", b"transfer-encoding"}

    asyncio.run(run())


async def test_a_connection_is_used_again_and_again() -> None:
    peer = Peer(SIZED)
    async with listening(peer) as engines:
        for _ in range(5):
            assert await ask(engines, peer) == (200, b"body")
        assert peer.connections == 1
        assert await asyncio.gather(*(ask(engines, peer) for _ in range(4))) == [(200, b"body")] * 4
        assert peer.connections == 4


@pytest.mark.parametrize(
    ("answers", "close"),
    [
        ([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"], False),
        ([b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody"], False),
        ([SIZED], True),
        ([SIZED + SIZED], False),
        ([SIZED, b"more"], False),
    ],
    ids=["announced", "1.0", "closed", "two-answers", "more"],
)
async def test_a_connection_that_is_over_or_out_of_step_is_not_used_again(answers: list[bytes], close: bool) -> None:
    peer = Peer(*answers, close=close)
    async with listening(peer) as engines:
        for count in (1, 2, 3):
            assert await ask(engines, peer) == (200, b"body")
            await asyncio.sleep(0.05)  # what comes late comes before the next request
            assert peer.connections == count


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 200", "closed"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "."),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "too large"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 20_000, "too large"),
    ],
    ids=["nothing", "half-a-line", "another-protocol", "upgrade", "two-lengths", "endless-header", "endless-headers"],
)
async def test_no_answer_is_lost(answer: bytes, why: str) -> None:
    peer = Peer(answer, close=True)
    async with listening(peer) as engines:
        with pytest.raises(ConnectionLost, match=why):
            await ask(engines, peer)


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"4\r\nbody\r\n",
        CHUNKED + b"4\r\nbody\r\n8\r\nhalf",
        CHUNKED + b"4\r\nbody\r\nnonsense",
        b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\nbody",
    ],
    ids=["between-chunks", "in-a-chunk", "nonsense", "sized"],
)
async def test_what_came_before_a_break_is_given_and_then_it_is_lost(answer: bytes) -> None:
    peer = Peer(answer, close=True)
    async with (
        listening(peer) as engines,
        asyncio.timeout(10),
        posted(engines, peer, b"{}", {}) as response,
    ):
        got = b""
        with pytest.raises(ConnectionLost):
            while piece := await response.chunk():
                got += piece
        assert got.startswith(b"body")
        with pytest.raises(ConnectionLost):  # not only once
            await response.chunk()


async def test_nobody_there_is_refused() -> None:
    peer = Peer()
    async with listening(peer):
        pass
    with pytest.raises(ConnectionRefused, match=peer.pod.address):
        await ask(ConnectionPool(), peer)


async def test_leaving_before_the_end_reaches_the_engine() -> None:
    peer = Peer(CHUNKED + b"4\r\nbody\r\n")
    async with listening(peer) as engines:
        async with posted(engines, peer, b"{}", {}) as response:
            assert await response.chunk() == b"body"
        await soon(lambda: peer.left == 1, "the engine sees that the client has gone")


async def test_an_answer_before_the_request_was_read_ends_the_connection() -> None:
    class Hasty(Peer):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SIZED)
            await asyncio.sleep(0.5)
            writer.close()

    peer = Hasty()
    async with listening(peer) as engines:
        for count in (1, 2):
            assert await ask(engines, peer, bytes(20_000_000)) == (200, b"body")
            assert peer.connections == count


async def test_a_slow_reader_holds_the_engine_back_and_gets_everything() -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    written = 0

    class Eager(Peer):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await reader.readuntil(b"{}")
            writer.write(CHUNKED)
            for _ in range(500):
                writer.write(chunk)
                await writer.drain()
                written += 65536
            writer.write(b"0\r\n\r\n")

    peer = Eager()
    async with (
        listening(peer) as engines,
        asyncio.timeout(30),
        posted(engines, peer, b"{}", {}) as response,
    ):
        held_back = -1
        while held_back != written:  # buffers of the kernel fill first
            held_back = written
            await asyncio.sleep(0.2)
        assert written < 500 * 65536 // 2
        assert len(await response.chunk()) < 2**20
        assert 65536 < len(await response.read(LARGEST)) < 500 * 65536
        assert written == 500 * 65536


async def test_an_answer_that_nobody_read_leaves_no_deaf_connection() -> None:
    body = b"x" * 300_000  # its last part comes when enough is ahead already
    peer = Peer(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + body)
    async with listening(peer) as engines:
        for _ in range(3):
            async with asyncio.timeout(10), posted(engines, peer, b"{}", {}):
                await asyncio.sleep(0.1)
        assert await ask(engines, peer) == (200, body)
        assert peer.connections == 1


async def test_an_answer_that_was_far_ahead_before_it_was_relayed_comes_to_its_end() -> None:
    body = b"x" * 3_000_000
    peer = Peer(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + body)
    async with listening(peer) as engines:
        came: list[bytes] = []
        async with asyncio.timeout(10), posted(engines, peer, b"{}", {}) as response:
            await asyncio.sleep(0.1)  # the reading has stopped by now
            assert response._paused
            await response.relay(came.append)
        assert b"".join(came) == body


class Deaf(asyncio.Transport):
    """Where nothing goes out."""

    def writelines(self, _: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        pass


async def relayed(parts: list[bytes]) -> tuple[bytes, str]:
    """What a relay gets of a chunked answer that comes in these parts, and what ended it."""
    connection, pieces = EngineConnection(), list[bytes]()
    connection.connection_made(Deaf())
    response = connection.send(b"", b"", 10)
    connection.data_received(CHUNKED)
    relaying = asyncio.ensure_future(response.relay(pieces.append))
    await asyncio.sleep(0)
    for part in parts:
        connection.data_received(part)
    connection.connection_lost(None)
    try:
        await relaying
    except ConnectionLost as error:
        return b"".join(pieces), str(error)
    return b"".join(pieces), ""


@given(
    st.lists(
        st.sampled_from(
            [
                b"4\r\nbody\r\n",
                b"F\r\n" + b"x" * 15 + b"\r\n",
                b"f\r\n" + b"\r\n" * 7 + b"x\r\n",
                b"10\r\n" + b"x" * 16 + b"\r\n",
                b"0010\r\n" + b"y" * 16 + b"\r\n",
                b"4;a=b\r\nbody\r\n",
                b"f\r\n" + b"x" * 16 + b"\r\n",  # one too many
                b"10\r\n" + b"x" * 15 + b"\r\n",  # and too few
                b"+4\r\nbody\r\n",
                b"0x4\r\nbody\r\n",
                b"0\r\n\r\n",
            ]
        ),
        max_size=6,
    )
)
def test_a_relay_reads_whole_chunks_as_it_reads_their_bytes(chunks: list[bytes]) -> None:
    """A chunk that is one read does not pass the parser, which must not make a difference."""
    whole, single = asyncio.run(relayed(chunks)), asyncio.run(relayed([bytes([byte]) for byte in b"".join(chunks)]))
    assert whole[0] == single[0] and bool(whole[1]) == bool(single[1])


@pytest.mark.parametrize("size", [*range(1, 300), *range(4090, 4120), *range(65_530, 65_560), 2**20])
def test_every_chunk_has_one_head(size: int) -> None:
    """By the bytes that it takes with its framing; some sizes belong to none."""
    heads = [head for body in range(max(1, size - 14), size) if len(head := b"%x\r\n" % body) + body + 2 == size]
    found = _chunk_head(size)
    assert found == heads[0] if heads else len(found) > size


async def test_idle_connections_are_let_go() -> None:
    peer = Peer(SIZED)
    async with listening(peer):
        engines = ConnectionPool(idle_s=0.2)
        await asyncio.gather(*(ask(engines, peer) for _ in range(3)))
        assert peer.left == 0
        await soon(lambda: peer.left == 3, "connections end after a while without a request")
        assert await ask(engines, peer) == (200, b"body")
        engines.close()
        await soon(lambda: peer.left == 4, "none is left when the pool ends")


async def test_a_header_that_holds_a_line_break_is_never_sent() -> None:
    peer = Peer(SIZED)
    async with listening(peer) as engines:
        with pytest.raises(ValueError, match="line break"):
            async with posted(engines, peer, b"{}", {"x-a": "1\r\nx-b: 2"}):
                pass
        assert peer.connections == 0


async def test_an_endless_answer_is_left_at_its_bound() -> None:
    """It was read to its end: a gigabyte in six seconds."""
    peer = Peer(CHUNKED, *[b"10000\r\n" + b"x" * 65_536 + b"\r\n"] * 100)
    async with listening(peer) as engines:
        with pytest.raises(BadAnswer):
            await ask(engines, peer, largest=1_000_000)
        await soon(lambda: peer.left == 1, "it is hung up on")


@pytest.mark.parametrize("status", [b"600", b"999"])
async def test_a_status_that_http_does_not_have_is_no_answer(status: bytes) -> None:
    peer = Peer(b"HTTP/1.1 " + status + b" Odd\r\nContent-Length: 0\r\n\r\n")
    async with listening(peer) as engines:
        with pytest.raises(ConnectionLost):
            await ask(engines, peer)


class Forgetful(Peer):
    """Answers once on each connection, and closes it when the next request comes, as a server does whose keep-alive
    ended at that moment. `after_s` is how long it thinks about it.
    """

    after_s = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await reader.readuntil(b"{}")
        writer.write(SIZED)
        try:
            await reader.readuntil(b"{}")
            await asyncio.sleep(self.after_s)
        except asyncio.IncompleteReadError:
            pass
        writer.close()


async def test_a_kept_connection_that_the_engine_has_just_closed_speaks_against_nobody() -> None:
    """It was taken for a broken pod, and cost the request a retry."""
    peer = Forgetful()
    async with listening(peer) as engines:
        assert await ask(engines, peer) == await ask(engines, peer) == (200, b"body")
    assert peer.connections == 2


async def test_a_request_that_breaks_its_engine_is_not_sent_again_by_the_pool() -> None:
    peer = Forgetful()
    peer.after_s = 0.7
    async with listening(peer) as engines:
        assert await ask(engines, peer) == (200, b"body")
        with pytest.raises(ConnectionLost):
            await ask(engines, peer)
    assert peer.connections == 1
