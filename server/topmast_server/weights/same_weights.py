"""Formats that are read as Q8_0, which holds the very same weights: a half-precision scale and 32 whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

# What the sixteen numbers of IQ4_NL stand for, in multiples of the scale (kvalues_iq4nl in ggml-common.h).
_IQ4_NL: Final = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def _q5_0(blocks: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Scale, 32 fifth bits, 16 bytes of nibbles; weight = (number - 16) * scale."""
    fifth = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")
    return (_nibbles(blocks) | fifth << 4).astype(np.int8) - np.int8(16)


def _iq4_nl(blocks: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Scale, 16 bytes of nibbles; weight = what the nibble stands for * scale."""
    return _IQ4_NL[_nibbles(blocks)]


def _nibbles(blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of the last 16 bytes: the low ones are the first 16 weights."""
    packed = blocks[:, -16:]
    return np.concatenate([packed & 15, packed >> 4], axis=1)


_NUMBERS: Final[dict[str, tuple[int, Callable[[NDArray[np.uint8]], NDArray[np.int8]]]]] = {
    "Q5_0": (22, _q5_0),
    "IQ4_NL": (18, _iq4_nl),
}
AS_Q8_0: Final = tuple(_NUMBERS)


def as_q8_0(raw: NDArray[np.uint8], kind: str) -> NDArray[np.uint8]:
    """Rows [rows, bytes] of a format of AS_Q8_0 as rows of Q8_0; their scales stay as they are, bit by bit."""
    block_bytes, numbers_of = _NUMBERS[kind]
    blocks = np.ascontiguousarray(raw).reshape(-1, block_bytes)
    found = np.empty((len(blocks), 34), np.uint8)
    found[:, :2] = blocks[:, :2]
    found[:, 2:] = numbers_of(blocks).view(np.uint8)
    return found.reshape(len(raw), -1)
