"""What an engine's journal says of one answer: enough to pass it on, to count it, and to let another pod continue it.

Reads bytes, writes nothing. The lines are in docs/contracts.md. What precedes a line of tokens counts only with it:
whatever a broken connection leaves behind is dropped, because the next pod makes it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from topmast_gateway.messages.token_usage import TokenUsage

JOURNAL_HEADER = "x-topmast-journal"
_DONE = b"data: [DONE]"
_MOVABLE = ("engine_lost", "draining")  # the engine went away; every other error is about the request


@dataclass(frozen=True, slots=True)
class EngineError:
    """An engine's own error after its journal had begun; `body` is OpenAI's envelope."""

    status: int
    retry_after_s: int
    body: bytes

    @property
    def code(self) -> str:
        """The envelope's; empty where it has none."""
        try:
            return str(json.loads(self.body)["error"]["code"])
        except (ValueError, KeyError, TypeError):
            return ""

    @property
    def retryable(self) -> bool:
        """Whether another pod would answer."""
        return self.code in _MOVABLE


class Journal:
    """One answer, however many pods make it. `token_ids` are those that no client will miss: their text was passed on,
    or, where the answer is `whole`, comes with the next pod's.
    """

    def __init__(self, usage: TokenUsage, *, whole: bool) -> None:
        self.token_ids: list[int] = []
        self.created = 0  # Unix time of the answer's beginning, which all its parts must tell
        self.done = False
        self.error: EngineError | None = None
        self.body = b""  # the answer, where it is whole
        self._usage = usage
        self._whole = whole
        self.restart()

    def restart(self) -> None:
        """Another pod continues: forget what the last one had not completed."""
        self._rest = b""
        self._data: list[bytes] = []
        self._ending: list[int] = []
        self._status: tuple[int, int] | None = None
        self.error = None

    def feed(self, piece: bytes) -> bytes:
        """What the client may have now: whole events."""
        blocks = (self._rest + piece if self._rest else piece).split(b"\n\n")
        self._rest = blocks.pop()
        ready: list[bytes] = []
        for block in blocks:
            if block.startswith(b": "):
                self._read(block[2:], ready)
            elif self._status:
                self.error = EngineError(*self._status, block.removeprefix(b"data: "))
            elif block == _DONE:
                self._finish(ready)
            else:
                self._data.append(block)
        ready.append(b"")
        return b"\n\n".join(ready)

    def continued(self, body: bytes) -> bytes:
        """The request `body`, a JSON object, as the next pod needs it."""
        if not self.token_ids:
            return body
        rest = {"token_ids": self.token_ids, "created": self.created}
        return b'%b,"continuation":%b}' % (body.rstrip()[:-1], json.dumps(rest).encode())

    def _read(self, line: bytes, ready: list[bytes]) -> None:
        kind, _, rest = line.partition(b" ")
        if kind == b"+":
            self._commit([int(token_id) for token_id in rest.split()])
            if not self._whole:
                ready += self._data
                self._data = []
        elif kind == b"end":  # counts with [DONE]
            self._ending = [int(token_id) for token_id in rest.split()]
        elif kind == b"prompt" and not self.token_ids:  # until then the answer begins anew with every pod
            self._usage.prompt, self.created = (int(number) for number in rest.split())
            self._usage.exact = True
        elif kind == b"cached" and not self.token_ids:
            self._usage.cached = int(rest)
        elif kind == b"error":
            status, retry_after_s = (int(number) for number in rest.split())
            self._status = status, retry_after_s

    def _commit(self, token_ids: list[int]) -> None:
        self.token_ids += token_ids
        self._usage.output += len(token_ids)

    def _finish(self, ready: list[bytes]) -> None:
        self._commit(self._ending)
        self.done = True
        if self._whole:
            self.body = b"\n\n".join(self._data).removeprefix(b"data: ")
        else:
            ready += self._data
            ready.append(_DONE)
