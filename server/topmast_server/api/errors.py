"""Every error answer in OpenAI's envelope `{"error": {message, type, param, code}}`.

A message says what happened, to what, and what to do next. Nothing here may leak a traceback to a client.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


class ApiError(Exception):
    """An answer other than 200. `retry_after_s` is for 503 alone: another pod may take the request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
        self.close = close

    def envelope(self) -> dict[str, Any]:
        """The body, which is also the payload of an error event in a stream."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            kind = "overloaded_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        """The whole answer, for when nothing has been sent yet."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.close:
            headers["Connection"] = "close"
        return Response(dump(self.envelope()), self.status, headers, media_type="application/json")


def dump(content: object) -> bytes:
    """Compact JSON; refuses NaN, which no JSON parser has to accept."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that would succeed nowhere."""
    return ApiError(400, message, param=param, code=code)


def deadline_exceeded(what: str, retry_after_s: int | None = None) -> ApiError:
    """The request's own timeout passed, or would: 503 where nothing was made, so that another pod may be quicker."""
    remedy = "allow more time, ask for fewer tokens, or try elsewhere"
    status = 504 if retry_after_s is None else 503
    return ApiError(
        status, f"the timeout is too short: {what}; {remedy}", code="deadline_exceeded", retry_after_s=retry_after_s
    )


def internal_error() -> ApiError:
    """A bug of ours."""
    message = "the server failed to answer because of a bug of its own; its log has the details"
    return ApiError(500, message, code="internal")


def from_validation(error: ValidationError) -> ApiError:
    """The first thing that is wrong with a body, as one sentence that names the field."""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return bad_request(f"the body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    if first["type"] in ("model_type", "model_attributes_type"):
        return bad_request('the body must be a JSON object, like {"model": ..., "messages": [...]}')
    # A union's branch names ("str", "list[...]") are in the location; they are ours, not the caller's.
    places = [str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier()]
    param = ".".join(part for part in places if part not in ("str", "int", "TextPart", "Message")) or None
    message = first["msg"].removeprefix("Value error, ")
    return bad_request(f"{param}: {message}" if param else message, param)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:200]}"
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"there is no route {where}; try /v1/models, /v1/chat/completions or /v1/completions"
        return ApiError(404, message, code="not_found").response()
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        answer = ApiError(405, f"{where} is not possible; use {allowed}", code="method_not_allowed").response()
        answer.headers["Allow"] = allowed
        return answer
    return ApiError(error.status_code, str(error.detail)).response()


async def on_unexpected(request: Request, error: Exception) -> Response:
    """An exception that nobody expected: the traceback goes to the log, never to the client."""
    return internal_error().response()
