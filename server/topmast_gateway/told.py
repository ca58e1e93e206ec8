"""What an engine without a journal tells of its use: the `usage` of its answer, and until then one token an event."""

from __future__ import annotations

import json
from typing import Any, Final

from topmast_gateway.tally import Tally

_USAGE: Final = b'"usage":'


def by_events(events: bytes, tally: Tally) -> None:
    """Count whole events of a stream; the last one has the usage where the client asked for it."""
    tally.output += events.startswith(b"data: {") + events.count(b"\ndata: {")
    if _USAGE in events:
        for line in events.splitlines():
            if line.startswith(b"data: {") and _USAGE in line:
                by_answer(line.removeprefix(b"data: "), tally)


def by_answer(body: bytes, tally: Tally) -> None:
    """Take over what a JSON answer says; one without usage changes nothing."""
    if _USAGE not in body:
        return
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return
    usage: Any = answer.get("usage") if isinstance(answer, dict) else None
    prompt, output = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if prompt is not None and output is not None:
        cached = _count(usage.get("prompt_tokens_details"), "cached_tokens") or 0
        tally.prompt, tally.cached, tally.output, tally.exact = prompt, min(cached, prompt), output, True


def _count(fields: Any, name: str) -> int | None:
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
