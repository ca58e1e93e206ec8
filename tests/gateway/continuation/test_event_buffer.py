"""Events are whole however their bytes are cut, and no engine can make a gateway keep or look at much."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.growth import assert_linear
from topmast_gateway.continuation.event_buffer import EventBuffer, EventTooLarge

PIECE = 256


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(each % (len(data) + 1) for each in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(st.text("a\r\n", max_size=60).map(str.encode), st.lists(st.integers(0, 100), max_size=12))
def test_all_up_to_the_last_blank_line_is_given_as_soon_as_it_is_there(data: bytes, cuts: list[int]) -> None:
    buffer, given_so_far, come = EventBuffer(), b"", b""
    for piece in cut(data, cuts):
        come += piece
        given_so_far += buffer.feed(piece)
        assert not given_so_far or given_so_far.endswith((b"\n\n", b"\r\n\r\n"))
        assert b"\n\n" not in buffer.rest and b"\r\n\r\n" not in buffer.rest
        assert given_so_far + buffer.rest == come


def test_an_event_without_an_end_is_not_kept_for_ever() -> None:
    buffer = EventBuffer(1000)
    buffer.feed(b"x" * 1000)
    with pytest.raises(EventTooLarge):
        buffer.feed(b"x")


@pytest.mark.parametrize("line", [b"x", b"\n", b"data: x\n", b"data: x\n\n", b"\r\n\r"])
def test_many_small_pieces_take_no_longer_than_few(line: bytes) -> None:
    """A stream without blank lines was joined anew with every piece."""

    def pieces(size: int) -> list[bytes]:
        data = line * (size // len(line))
        return [data[start : start + PIECE] for start in range(0, len(data), PIECE)]

    def read(found: list[bytes]) -> None:
        buffer = EventBuffer(2**30)
        for piece in found:
            buffer.feed(piece)

    assert_linear(pieces, read, 4 * 1024 * 1024)
