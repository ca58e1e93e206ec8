"""What a person sees of the start: one line per phase with bytes and seconds, then what to type next."""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Final, TextIO

_REPORT_EVERY_S: Final = 2.0


class Console:
    """Lines on standard output; errors go to standard error."""

    def __init__(self, started_s: float, out: TextIO | None = None) -> None:
        self._started_s = started_s
        self._out = sys.stdout if out is None else out
        self._phase = ""
        self._reported_s = 0.0

    def line(self, text: str) -> None:
        """One line, at once: a pipe must not hold it back."""
        print(text, file=self._out, flush=True)

    def listening(self, public: str, admin: str, model: str) -> None:
        """The ports are bound; the model is about to be loaded."""
        self.line(f"topmast serve: {model}")
        self.line(f"listening on {public} (admin {admin})")

    def loading(self, phase: str, bytes_done: int, bytes_total: int, eta_s: float | None) -> None:
        """A phase began, or a long one goes on."""
        now_s = time.monotonic()
        if phase == self._phase and now_s - self._reported_s < _REPORT_EVERY_S:
            return
        self._phase, self._reported_s = phase, now_s
        what = ""
        if phase == "loading" and bytes_total:
            left = "" if eta_s is None else f", {eta_s:.1f} s left"
            what = f"{bytes_done / 2**20:.1f} of {bytes_total / 2**20:.1f} MiB{left}"
        self.line(f"{now_s - self._started_s:6.1f} s  {phase:<8} {what}".rstrip())

    def ready(self, public: str, name: str, notes: list[str], seconds: float) -> None:
        """The model answers."""
        for note in notes:
            self.line(f"          {note}")
        self.line(f"ready in {seconds:.1f} s: {public}/v1")
        body = json.dumps({"model": name, "messages": [{"role": "user", "content": "What is the capital of Japan?"}]})
        self.line(f"try: curl {public}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'")

    def error(self, text: str) -> None:
        """Something went wrong."""
        print(f"topmast serve: {text}", file=sys.stderr, flush=True)


def url(listener: socket.socket) -> str:
    """The address that a person can type."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
