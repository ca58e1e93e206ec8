"""The answers of the two routes, as bytes: whole ones, and the chunks of a stream.

Chunks are put together from prefixes made once per request: a token must cost microseconds, not a model dump.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from topmast_server.api.errors import dump


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted in one place for streams and whole answers alike."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    def as_json(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


def with_timing(body: bytes, timing: dict[str, Any]) -> bytes:
    """A chunk or a whole answer (a JSON object) with the member `timing` added at its end."""
    return b'%b,"timing":%b}' % (body[:-1], dump(timing))


class Shape(Protocol):
    """One route's spelling of an answer, created at a Unix time. Chunks are JSON texts without SSE framing."""

    created: int

    def opening(self, index: int) -> bytes | None:
        """A chunk before the first text of a choice, where the route has one."""

    def text(self, index: int, text: str) -> bytes:
        """A chunk with new text."""

    def finish(self, index: int, reason: str) -> bytes:
        """The one chunk with the finish reason."""

    def usage(self, usage: Usage) -> bytes:
        """The chunk without choices that include_usage asks for."""

    def whole(self, texts: Sequence[tuple[str, str]], usage: Usage) -> bytes:
        """The answer that is not streamed, from (text, finish reason) per choice."""


class _Chunks:
    """What the chunks of both routes have in common."""

    def __init__(self, answer_id: str, kind: str, model: str, include_usage: bool, created: int | None) -> None:
        self.created = int(time.time()) if created is None else created
        self._head = {"id": answer_id, "object": kind, "created": self.created, "model": model}
        # OpenAI sends "usage": null in every other chunk of a stream that will carry usage.
        self._tail = b',"usage":null}' if include_usage else b"}"
        self._open = dump(self._head)[:-1] + b',"choices":[{"index":'

    def _choice(self, index: int, rest: bytes) -> bytes:
        return b"%b%d,%b]%b" % (self._open, index, rest, self._tail)

    def usage(self, usage: Usage) -> bytes:
        return dump({**self._head, "choices": [], "usage": usage.as_json()})

    def _whole(self, kind: str, choices: list[dict[str, Any]], usage: Usage) -> bytes:
        return dump({**self._head, "object": kind, "choices": choices, "usage": usage.as_json()})


_quote: Final = json.JSONEncoder(ensure_ascii=False).encode


class ChatShape(_Chunks):
    """`chat.completion` and `chat.completion.chunk`."""

    def __init__(self, request_id: str, model: str, include_usage: bool, created: int | None = None) -> None:
        super().__init__(f"chatcmpl-{request_id}", "chat.completion.chunk", model, include_usage, created)

    def opening(self, index: int) -> bytes:
        return self._choice(index, b'"delta":{"role":"assistant","content":""},"finish_reason":null}')

    def text(self, index: int, text: str) -> bytes:
        return self._choice(index, b'"delta":{"content":%b},"finish_reason":null}' % _quote(text).encode())

    def finish(self, index: int, reason: str) -> bytes:
        return self._choice(index, b'"delta":{},"finish_reason":%b}' % _quote(reason).encode())

    def whole(self, texts: Sequence[tuple[str, str]], usage: Usage) -> bytes:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text},
                "logprobs": None,
                "finish_reason": reason,
            }
            for index, (text, reason) in enumerate(texts)
        ]
        return self._whole("chat.completion", choices, usage)


class CompletionShape(_Chunks):
    """`text_completion`, the same object in streams and whole answers."""

    def __init__(self, request_id: str, model: str, include_usage: bool, created: int | None = None) -> None:
        super().__init__(f"cmpl-{request_id}", "text_completion", model, include_usage, created)

    def opening(self, index: int) -> None:
        return None

    def text(self, index: int, text: str) -> bytes:
        return self._choice(index, b'"text":%b,"logprobs":null,"finish_reason":null}' % _quote(text).encode())

    def finish(self, index: int, reason: str) -> bytes:
        return self._choice(index, b'"text":"","logprobs":null,"finish_reason":%b}' % _quote(reason).encode())

    def whole(self, texts: Sequence[tuple[str, str]], usage: Usage) -> bytes:
        choices = [
            {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
            for index, (text, reason) in enumerate(texts)
        ]
        return self._whole("text_completion", choices, usage)
