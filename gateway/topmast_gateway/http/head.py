"""The head of a request: how large it may be, what it is for, and what of it two readers could read differently."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import httptools

from topmast_gateway.messages.errors import error_envelope
from topmast_gateway.messages.request import Header

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 128
_AROUND_A_HEADER: Final = len(b": " + b"\r\n")
_AROUND_A_URL: Final = len(b"GET " + b" HTTP/1.1\r\n" + b"\r\n")
_ONLY_ONCE: Final = (b"host", b"authorization", b"x-api-key")


def is_too_large(url: bytes, headers: list[Header]) -> bool:
    """Whether a complete head has more bytes than a head may have, with what stands around names and values."""
    size = len(url) + _AROUND_A_URL
    for name, value in headers:
        size += len(name) + len(value) + _AROUND_A_HEADER
    return size > MAX_HEAD_BYTES


def refusal(status: int, code: str, message: str) -> bytes:
    """A complete answer to a head that is refused; the connection ends with it."""
    body = error_envelope(message, "invalid_request_error", code)
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def target(url: bytes) -> tuple[str, bytes]:
    """Path and query of a request line; an error, which the parser takes for a refusal, where there is no path."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.query or b""


def wrong_with(version: str, upgrade: bool, headers: list[Header]) -> str:
    """What is wrong with a well-formed head, as a sentence; empty when nothing is."""
    if version not in ("1.0", "1.1"):
        return f"HTTP/{version} is not spoken here: use HTTP/1.1"
    names = [name for name, _ in headers]
    for name in _ONLY_ONCE:
        if names.count(name) > 1:
            return f"the header {name.decode()} came more than once: send one"
    if version == "1.1" and b"host" not in names:
        return "the header host is missing"
    if upgrade:
        # The parser takes all that follows for another protocol, so the body would never be read.
        return "other protocols are not spoken here: leave out the header upgrade, and do not use CONNECT"
    if b"transfer-encoding" in names:
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if version == "1.0" or codings != [b"chunked"]:
            return "the only transfer-encoding is chunked, and it needs HTTP/1.1"
    return ""
