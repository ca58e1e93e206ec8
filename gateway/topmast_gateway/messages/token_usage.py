"""What one request has really used, counted while its answer passes by. Fairness and budgets settle by it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final


@dataclass(slots=True)
class TokenUsage:
    """Tokens, each counted once however many pods worked on the answer. `exact` is False while they are estimates:
    an engine that keeps no journal reports them at the end of a stream at best.
    """

    prompt: int = 0
    cached: int = 0  # of the prompt: not computed again
    output: int = 0
    exact: bool = False


_USAGE: Final = b'"usage":'
_NEAR_BYTES: Final = 16 * 1024
_json: Final = json.JSONDecoder()


def count_events(events: bytes, usage: TokenUsage) -> None:
    """Count whole events of a stream; the last one has the usage where the client asked for it."""
    usage.output += events.startswith(b"data: {") + events.count(b"\ndata: {")
    if _USAGE in events:
        for line in events.splitlines():
            if line.startswith(b"data: {") and _USAGE in line:
                read_usage(line.removeprefix(b"data: "), usage)


def read_usage(body: bytes, usage: TokenUsage) -> None:
    """Take over what a JSON answer says; one without usage changes nothing."""
    counts = _usage_of(body)
    prompt, output = _count(counts, "prompt_tokens"), _count(counts, "completion_tokens")
    if prompt is not None and output is not None:
        cached = _count(counts.get("prompt_tokens_details"), "cached_tokens") or 0
        usage.prompt, usage.cached, usage.output, usage.exact = prompt, min(cached, prompt), output, True


def _usage_of(body: bytes) -> Any:
    """The object behind the last `"usage":`, looked for where it stands: near one of the ends. Else None.

    No string can hold these bytes, because its quotes would be escaped.
    """
    at = body.rfind(_USAGE, max(0, len(body) - _NEAR_BYTES))
    if at < 0:
        at = body.find(_USAGE, 0, _NEAR_BYTES)
    if at < 0:
        return None
    start = at + len(_USAGE)
    try:
        return _json.raw_decode(body[start : start + _NEAR_BYTES].decode(errors="replace").lstrip())[0]
    except (ValueError, RecursionError):
        return None


def _count(fields: Any, name: str) -> int | None:
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
