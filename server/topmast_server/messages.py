"""The whole protocol between the API process and the engine process, on one screen.

One duplex pipe carries msgpack arrays `[tag, ...fields]`; every answer of one engine step travels in one frame.
Progress does not travel here: it lies in a shared page (progress.py), so that a probe never waits for the engine.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import Any

import msgpack


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to pick tokens. Temperature 0 is greedy; top_k 0 and top_p 1 switch those filters off."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Where one sequence's time went, in seconds, and how often it had to be computed again."""

    queued_s: float  # from Submit to its first admission
    prefill_s: float  # from there to its first token
    decode_s: float  # from there to its last token
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class Submit:
    """A tokenised request. The engine stops at `max_tokens`, at a token of `stop_token_ids`, or when cancelled."""

    request_id: str
    token_ids: list[int]
    max_tokens: int
    sampling: Sampling
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    priority: int = 1  # 0 interactive, 1 normal, 2 batch
    deadline_s: float | None = None  # CLOCK_MONOTONIC; a sequence that is not finished by then ends with "deadline"
    cache_salt: str = ""  # prefixes are shared only among requests with the same salt


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client left, or a stop string was found: free the pages within one step, send nothing more."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process after the current step."""


@dataclass(frozen=True, slots=True)
class Token:
    """One new token of one request; `finish` is set on its last: "stop", "length", "error" or "deadline"."""

    request_id: str
    token_id: int  # -1 when the request ends without a token (error, deadline)
    finish: str | None
    cached_tokens: int = 0  # prompt tokens that were not computed again
    error: str | None = None
    timing: Timing | None = None  # so far, with the first token; in all, with `finish` unless it was refused at once


@dataclass(frozen=True, slots=True)
class Step:
    """What one engine step did: all its tokens, and the counters that /metrics and /state show."""

    tokens: list[Token]
    stats: dict[str, float]


@dataclass(frozen=True, slots=True)
class Loading:
    """Start-up progress: phase is "loading" or "warming"."""

    phase: str
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The warm-up generation succeeded. `info` holds model, capacity and start times as in docs/contracts.md."""

    info: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine cannot go on; code and message as in the termination log."""

    code: str
    message: str


Message = Submit | Cancel | Stop | Step | Loading | Ready | Failed
_KINDS: tuple[type, ...] = (Submit, Cancel, Stop, Step, Loading, Ready, Failed)


def pack(message: Message) -> bytes:
    """One frame of the pipe."""
    return msgpack.packb([_KINDS.index(type(message)), astuple(message)])  # type: ignore[no-any-return]


def unpack(frame: bytes) -> Message:
    """The inverse of `pack`."""
    tag, fields = msgpack.unpackb(frame)
    if _KINDS[tag] is Submit:
        fields[3] = Sampling(*fields[3])
    elif _KINDS[tag] is Step:
        for token in fields[0]:
            token[-1] = token[-1] and Timing(*token[-1])
        fields[0] = [Token(*token) for token in fields[0]]
    return _KINDS[tag](*fields)  # type: ignore[no-any-return]
