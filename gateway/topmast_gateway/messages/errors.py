"""Every answer that is not a model's: OpenAI's error envelope, its code and its headers.

A message says what happened, to what, and what to do next. It never carries a key, an address or a traceback.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec

_UNAVAILABLE = "service_unavailable_error"


class ApiError(Exception):
    """The gateway's own answer to a request that it does not pass on."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.kind = kind
        self.param = param
        self.headers = headers

    def body(self) -> bytes:
        """The envelope that OpenAI's clients turn into their exceptions."""
        return error_envelope(str(self), self.kind, self.code, self.param)


class ModelUnavailable(ApiError):
    """The model cannot answer at present, and another one might."""


@dataclass(frozen=True, slots=True)
class EngineErrorText:
    """What an error of an engine says; empty where it says nothing."""

    code: str = ""
    message: str = ""


class _Error(msgspec.Struct):
    code: str | int | None = None
    message: str | None = None


class _Envelope(msgspec.Struct):
    error: _Error


_decoder = msgspec.json.Decoder(_Envelope)


def read_error(body: bytes) -> EngineErrorText:
    """Code and message of OpenAI's envelope. Decoded by type: what else is in it takes no time and no memory."""
    try:
        error = _decoder.decode(body).error
    except (msgspec.MsgspecError, RecursionError):
        return EngineErrorText()
    return EngineErrorText(str(error.code or ""), error.message or "")


def error_envelope(message: str, kind: str, code: str, param: str | None = None) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}` as JSON."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def sse_error(message: str, code: str, kind: str = "server_error") -> bytes:
    """A last event for a stream that cannot go on: clients raise it instead of taking a torso for the answer."""
    return b"data: " + error_envelope(message, kind, code) + b"\n\n"


def unavailable(code: str, message: str, retry_after_s: int) -> ApiError:
    """503 of the gateway itself, which says when another try is worth it."""
    return ApiError(503, code, message, kind=_UNAVAILABLE, headers=_retry_after(retry_after_s))


def model_unavailable(code: str, message: str, retry_after_s: int) -> ModelUnavailable:
    """503 of one model, which says when another try is worth it."""
    return ModelUnavailable(503, code, message, kind=_UNAVAILABLE, headers=_retry_after(retry_after_s))


def _retry_after(seconds: int) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"retry-after", b"%d" % seconds),)
