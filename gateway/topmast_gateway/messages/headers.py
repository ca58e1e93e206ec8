"""Which headers cross the gateway, in either direction.

Towards an engine only a short list passes: whoever calls is decided by the key, so nothing that claims an identity, a
credential or an address gets through, whatever it is called.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping

from topmast_gateway.messages.request import Header

TIMEOUT = "x-request-timeout"
RAW_TIMEOUT = TIMEOUT.encode()  # as it comes from clients
_PASSED_ON = tuple(
    (name.encode(), name)
    for name in ("content-type", "accept", "user-agent", "traceparent", "tracestate", TIMEOUT, "x-request-timing")
)
_CORS = b"access-control-"  # which pages may call is said by the gateway alone
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

# Connection handling is each hop's own; date, server and the request id are the gateway's.
_NOT_PASSED_BACK = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade date server x-request-id content-length".split()
)


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """The caller's id where it is short and plain, else a new one."""
    if (given := headers.get(b"x-request-id")) is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"req-{random.getrandbits(128):032x}"


def towards_engine(headers: Mapping[bytes, bytes], identity: str) -> dict[str, str]:
    """What an engine is given: the content, the trace, the request's id, and on which terms it is served."""
    passed = {"x-request-id": identity, "accept-encoding": "identity"}
    for raw, name in _PASSED_ON:
        if raw in headers:
            passed[name] = headers[raw].decode("latin-1")
    return passed


def seconds_of(value: bytes) -> float | None:
    """A timeout in a header; None where it makes no sense."""
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 < seconds < 1e9 else None


def towards_client(raw: Iterable[Header]) -> list[Header]:
    """An engine's headers without those that belong to its connection."""
    kept = []
    named = set[bytes]()
    for name, value in raw:
        lower = name.lower()
        if lower == b"connection":
            named |= {token.strip().lower() for token in value.split(b",")}
        elif lower not in _NOT_PASSED_BACK and not lower.startswith(_CORS):
            kept.append((lower, value))
    return [header for header in kept if header[0] not in named] if named else kept
