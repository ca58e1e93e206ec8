"""What engines themselves say of their work: totals on their admin ports, and a line in their log for each request.

A total ends with its process and is known as it was last read. A line is missing where a process died in its request;
the engine that went on with the answer has one for all of it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from gateway.lab.served import Served

_EVERY_S = 0.25
_ANSWER_S = 0.5  # of an engine that may be frozen
_LINE = re.compile(r"prompt_tokens=(\d+) tokens=(\d+) .*?request_id=(\S+)")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of prompts and of answers."""

    prompt: int = 0
    output: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt + other.prompt, self.output + other.output)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.prompt - other.prompt, self.output - other.output)


def by_request(logs: Iterable[Path]) -> dict[str, Tokens]:
    """The lines by request id; of several tries at an answer the furthest, whose tokens begin with the others'."""
    found: dict[str, Tokens] = {}
    for log in logs:
        for prompt, output, request in _LINE.findall(log.read_text()):
            told = Tokens(int(prompt), int(output))
            found[request] = max(told, found.get(request, told), key=lambda each: each.output)
    return found


class Meter:
    """`with Meter(engines) as meter: ...` adds up their totals during the block, over all their restarts."""

    def __init__(self, engines: Sequence[Served]) -> None:
        self._engines = engines
        self._seen: dict[tuple[str, int], Tokens] = {}  # by address and process
        self._before = Tokens()
        self._began_s = self._ended_s = 0.0
        self._http = httpx.Client(timeout=_ANSWER_S, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
        self._reading = threading.Lock()
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="meter", daemon=True)

    def __enter__(self) -> Meter:
        self.read()
        self._before, self._began_s = self._sum(), time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._told.set()
        self._thread.join()
        self.read()
        self._ended_s = time.monotonic()
        self._http.close()

    @property
    def made(self) -> Tokens:
        """During the block."""
        return self._sum() - self._before

    @property
    def one_second(self) -> float:
        """Tokens of answers that all engines together made in a second of the block, on average."""
        return self.made.output / (self._ended_s - self._began_s)

    def read(self) -> None:
        """Look at all of them once; best just before one of them is killed."""
        with self._reading:
            for engine in self._engines:
                life = (engine.ip, engine.process.pid)
                try:
                    work = self._http.get(f"http://{engine.ip}:8001/state").json()["work"]
                except (httpx.HTTPError, ValueError):
                    continue
                if life == (engine.ip, engine.process.pid):
                    self._seen[life] = Tokens(work["input_tokens_total"], work["output_tokens_total"])

    def _sum(self) -> Tokens:
        return sum(self._seen.values(), Tokens())

    def _follow(self) -> None:
        while not self._told.wait(_EVERY_S):
            self.read()
