"""On which terms a request is served: until when, and whether it is told where its time went.

Body fields and headers say the same things; headers are for proxies and for clients that cannot add fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers

from topmast_server.api.errors import bad_request
from topmast_server.api.protocol import MAX_TIMEOUT_S, ChatRequest, CompletionRequest

_TIMEOUT: Final = "x-request-timeout"
_TIMING: Final = "x-request-timing"
_JOURNAL: Final = "x-topmast-journal"
_SWITCH: Final = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True, slots=True)
class Terms:
    """`deadline_s` is CLOCK_MONOTONIC; `timing` asks for the timing object, `journal` for a journal (stream.py)."""

    deadline_s: float | None
    timing: bool
    journal: bool = False


def terms(headers: Headers, request: ChatRequest | CompletionRequest, came_s: float) -> Terms:
    """Of body and header the shorter timeout counts, from when the request came; 400 for a header that is nonsense."""
    timeouts = [timeout for timeout in (request.timeout, _header_timeout(headers)) if timeout is not None]
    deadline_s = came_s + min(timeouts) if timeouts else None
    timing, journal = (_header_switch(headers, name) for name in (_TIMING, _JOURNAL))
    return Terms(deadline_s, request.timing or timing, journal)


def _header_timeout(headers: Headers) -> float | None:
    text = headers.get(_TIMEOUT)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT_S:
        message = f"the header {_TIMEOUT} is {text[:40]!r}; give seconds, more than 0 and at most {MAX_TIMEOUT_S}"
        raise bad_request(message, _TIMEOUT)
    return seconds


def _header_switch(headers: Headers, name: str) -> bool:
    text = headers.get(name, "0").lower()
    if text not in _SWITCH:
        raise bad_request(f"the header {name} is {text[:40]!r}; give 1 or 0", name)
    return _SWITCH[text]
