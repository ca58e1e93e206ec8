"""The access log: one JSON object for every request on the public port. Never a prompt, an answer or a key."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from topmast_gateway.messages.request import Request
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.observability.log_writer import LogWriter

_LONGEST_PATH = 200


@dataclass(slots=True)
class RequestRecord:
    """What is known of a request when it has ended. `model` and `caller` are empty where they were never known."""

    arrived_at: float  # monotonic
    client: str = ""  # its address
    model: str = ""
    caller: str = ""
    usage: TokenUsage = field(default_factory=TokenUsage)


class AccessLog:
    """Writes to a file, or with "-" to standard output."""

    def __init__(self, where: str) -> None:
        self._lines = LogWriter(None if where == "-" else Path(where), "access log")

    def write(self, request: Request, record: RequestRecord, writer: ResponseWriter) -> None:
        """One line, without waiting for anything."""
        now = time.time()
        fields = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z",
            "request": writer.request_id,
            "trace": _trace(request.headers.get(b"traceparent", b"")),
            "method": request.method,
            "path": request.path[:_LONGEST_PATH],
            "status": writer.status or 499,
            "seconds": round(time.monotonic() - record.arrived_at, 4),
            "first": None if writer.answered_at is None else round(writer.answered_at - record.arrived_at, 4),
            "client": record.client,
            "caller": record.caller,
            "model": record.model,
            "pod": writer.pod,
            "tries": writer.tries,
            "prompt": record.usage.prompt,
            "cached": record.usage.cached,
            "output": record.usage.output,
        }
        known = {name: value for name, value in fields.items() if value not in (None, "")}
        self._lines.write(json.dumps(known).encode() + b"\n")

    def close(self) -> None:
        """Write what is left, for a moment."""
        self._lines.close()


def _trace(traceparent: bytes) -> str:
    """The id of the trace in a W3C header; empty where that is none."""
    parts = traceparent.split(b"-")
    return parts[1].decode("ascii", "replace") if len(parts) == 4 and len(parts[1]) == 32 else ""
