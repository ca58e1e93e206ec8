"""One answer as a client saw it, with the time of every event, and how it differs from another one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_JOURNAL = (b": +", b": prompt", b": cached", b": end", b": error")


@dataclass(eq=False)
class Answer:
    """`error` says why it is none; it is truncated when nothing says so and its end is missing all the same.

    `broken` is the kind of error after which SDKs ask again: the connection did not come about, or broke.
    """

    streams: bool
    sent_s: float
    request_id: str = ""
    door: str = ""  # the base URL that was asked
    text: str = ""
    finish: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    answer_id: str | None = None
    error: str | None = None
    broken: bool = False
    ended: bool = False
    pieces: int = 0  # of text, each of one token at least
    events_s: list[float] = field(default_factory=list)  # of the monotonic clock; one for an answer in one piece

    @property
    def truncated(self) -> bool:
        return self.error is None and not (self.ended and self.finish in ("stop", "length"))

    @property
    def ttft_s(self) -> float:
        return self.events_s[0] - self.sent_s

    @property
    def longest_gap_s(self) -> float:
        """Between two events of a stream."""
        return max((b - a for a, b in zip(self.events_s, self.events_s[1:], strict=False)), default=0.0)

    def take(self, chunk: dict[str, Any]) -> None:
        """A stream's chunk, or an answer in one piece. What may not be in it becomes the answer's error."""
        self.events_s.append(time.monotonic())
        if "error" in chunk:
            self.error = f"an error after {len(self.events_s) - 1} events: {chunk['error']}"[:300]
            return
        if self.answer_id not in (None, chunk["id"]):
            self.error = f"the stream changed its id from {self.answer_id} to {chunk['id']}"
        self.answer_id = chunk["id"]
        if usage := chunk.get("usage"):
            self.prompt_tokens, self.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        for choice in chunk["choices"]:
            part = choice.get("delta") or choice.get("message") or choice
            if self.finish is not None:
                self.error = "text after the finish reason"
            if part.get("role") and self.streams and self.text:
                self.error = "the stream began a second time"
            text = part.get("content") or part.get("text") or ""
            self.text += text
            self.pieces += bool(text)
            self.finish = choice.get("finish_reason")

    def line(self, line: bytes) -> None:
        """One line of an event stream."""
        line = line.rstrip(b"\r\n")
        if not line:
            return
        if line.startswith(_JOURNAL):
            self.error = f"what engine and gateway tell each other reached the client: {line[:80]!r}"
        elif self.ended:
            self.error = f"something after [DONE]: {line[:80]!r}"
        elif line == b"data: [DONE]":
            self.ended = True
        elif line.startswith(b"data: "):
            self.take(json.loads(line[6:]))
        elif not line.startswith(b":"):
            self.error = f"not a line of an event stream: {line[:80]!r}"

    def difference(self, undisturbed: Answer) -> str:
        """Where it first differs from the undisturbed answer to the same request; empty where it does not."""
        return next(self._differences(undisturbed), "")

    def _differences(self, other: Answer) -> Iterator[str]:
        if self.text != other.text:
            pairs = zip(self.text, other.text, strict=False)
            place = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(self.text), len(other.text)))
            here, there = (text[max(0, place - 20) : place + 20] for text in (self.text, other.text))
            yield f"at character {place} of {len(other.text)}: {here!r} instead of {there!r}"
        for name in ("finish", "prompt_tokens", "output_tokens"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine != its:
                yield f"{name} is {mine} instead of {its}"
