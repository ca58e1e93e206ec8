"""How urgent a request is, and how long it may wait: from the body, its headers, and the caller's best priority.

A caller that asks for a better priority than its own is served with its own, as OpenAI does with service tiers. The
engine reads it from a field at the body's end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from topmast_gateway.identity.caller import Priority
from topmast_gateway.messages.completion import CompletionRequest, with_field
from topmast_gateway.messages.headers import RAW_TIMEOUT, seconds_of

_RETRY_COUNT: Final = b"x-stainless-retry-count"  # OpenAI's clients send it, and others that Stainless generates


def effective_priority(request: CompletionRequest, best: Priority) -> Priority:
    """The priority that a request is served with: what it asks for, or NORMAL, and never better than the caller's."""
    return max(Priority.NORMAL if request.priority is None else request.priority, best)


def with_priority(request: CompletionRequest, priority: Priority) -> CompletionRequest:
    """The request with its priority in the body, where an engine would take it for another one."""
    if priority is (Priority.NORMAL if request.priority is None else request.priority):
        return request
    body = with_field(request.body, "priority", b"%d" % priority)
    return msgspec.structs.replace(request, body=body, priority=priority)


def deadline_of(request: CompletionRequest, headers: Mapping[bytes, bytes], arrived_at: float) -> float | None:
    """Until when the caller waits for an answer, of body and header the shorter; None when it does not say.

    In the clock of `arrived_at`. A header that is nonsense is no word of it, and for the engine to refuse.
    """
    said_s = request.timeout_s
    if RAW_TIMEOUT in headers and (header_s := seconds_of(headers[RAW_TIMEOUT])) is not None:
        said_s = header_s if said_s is None else min(said_s, header_s)
    return None if said_s is None else arrived_at + said_s


def is_retry(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the client says that it has sent this request before."""
    return headers.get(_RETRY_COUNT, b"0") != b"0"
