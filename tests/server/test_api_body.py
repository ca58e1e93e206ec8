"""Bodies within bounds: of all together, as they come; what is refused is read on, and nothing stays taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from topmast_server.api.body import _SMALL_BYTES, MAX_BODY_BYTES, BodyRoom, ClientGone, read_body
from topmast_server.api.errors import ApiError

KIB = 1024
SMALL = _SMALL_BYTES


def client(*sizes: int, gone: bool = False) -> tuple[Callable[[], Awaitable[dict[str, Any]]], list[int]]:
    """Sends pieces of these sizes, and notes which were taken."""
    taken: list[int] = []
    pieces: Iterator[int] = iter(sizes)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        size = next(pieces, None)
        if size is None:
            return {"type": "http.disconnect"}
        taken.append(size)
        return {"type": "http.request", "body": bytes(size), "more_body": gone or len(taken) < len(sizes)}

    return receive, taken


async def read(room: BodyRoom, *sizes: int, gone: bool = False) -> int:
    receive, _ = client(*sizes, gone=gone)
    with room.hold() as held:
        return len(await read_body(Headers({}), receive, held))


async def test_bytes_are_taken_as_they_come_and_given_back() -> None:
    room = BodyRoom(1000 * KIB)
    with room.hold() as held:
        receive, _ = client(SMALL, 100 * KIB, 200 * KIB)
        body = await read_body(Headers({"content-length": "8000000"}), receive, held)
        assert (len(body), room.taken_bytes) == (SMALL + 300 * KIB, 300 * KIB)
        held.release()
        held.release()
        assert room.taken_bytes == 0
    assert room.taken_bytes == 0


async def test_large_bodies_shut_small_ones_out_never() -> None:
    room = BodyRoom(1000 * KIB)
    with room.hold() as greedy:
        greedy.grow(SMALL + 1000 * KIB)
        assert await read(room, SMALL) == SMALL
        with pytest.raises(ApiError, match="too many large requests") as caught:
            await read(room, SMALL, 1)
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (503, "server_full", 1)
    assert await read(room, SMALL, 1) == SMALL + 1


async def test_what_is_refused_is_read_to_its_end_and_not_kept() -> None:
    room = BodyRoom(100 * KIB)
    for sizes, status in (([SMALL, 200 * KIB, 300 * KIB, 5], 503), ([MAX_BODY_BYTES // 2, MAX_BODY_BYTES, 5], 413)):
        receive, taken = client(*sizes)
        with pytest.raises(ApiError) as caught, BodyRoom(10**9 if status == 413 else 100 * KIB).hold() as held:
            await read_body(Headers({}), receive, held)
        assert (caught.value.status, taken) == (status, sizes)
    assert room.taken_bytes == 0


async def test_a_client_that_leaves_gives_everything_back() -> None:
    room = BodyRoom()
    with pytest.raises(ClientGone):
        await read(room, SMALL, 50 * KIB, gone=True)
    assert room.taken_bytes == 0


@given(st.lists(st.lists(st.integers(0, 300 * KIB), min_size=1, max_size=6), max_size=12))
def test_never_more_is_taken_than_there_is(bodies: list[list[int]]) -> None:
    room = BodyRoom(500 * KIB)

    async def one(sizes: list[int]) -> int:
        try:
            size = await read(room, *sizes)
        except ApiError:
            size = -1
        assert 0 <= room.taken_bytes <= room.most_bytes
        return size

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*map(one, bodies))

    for sizes, size in zip(bodies, asyncio.run(all_of_them()), strict=True):
        assert size in (sum(sizes), -1) and (size >= 0 or sum(sizes) > SMALL)
    assert room.taken_bytes == 0
