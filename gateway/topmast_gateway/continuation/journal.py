"""What an engine's journal says of one answer: enough to pass it on, to count it, and to let another pod continue it.

Reads bytes, writes nothing. The lines are in docs/contracts.md. What precedes a line of tokens counts only with it:
whatever a broken connection leaves behind is dropped, because the next pod makes it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from topmast_gateway.continuation.event_buffer import EventBuffer, EventTooLarge
from topmast_gateway.messages.completion import with_field
from topmast_gateway.messages.errors import read_error
from topmast_gateway.messages.token_usage import TokenUsage

JOURNAL_HEADER = "x-topmast-journal"
_DONE = b"data: [DONE]"
_TOKENS, _EVENT = b": + ", b"data: {"
_MOST_DIGITS = 9  # of a number that is surely less than the largest
_RETRYABLE = ("engine_lost", "draining")  # the engine went away; every other error is about the request
_LARGEST_ANSWER_BYTES = 64 * 1024 * 1024  # of what is kept until it may be passed on
_BLOCK_BYTES = 64  # that a kept block takes beside its text
_MOST_TOKENS = 2**20
_LARGEST_NUMBER = 2**31
_LONGEST_RETRY_S = 86_400


class _Wrong(Exception):
    """No journal has this."""


@dataclass(frozen=True, slots=True)
class EngineError:
    """An engine's own error after its journal had started; `body` is OpenAI's envelope."""

    status: int
    retry_after_s: int
    body: bytes

    @property
    def code(self) -> str:
        """The envelope's; empty where it has none."""
        return read_error(self.body).code

    @property
    def retryable(self) -> bool:
        """Whether another pod would answer."""
        return self.code in _RETRYABLE


class Journal:
    """One answer, however many pods make it. `token_ids` are those that no client will miss: their text was passed on,
    or, where the answer is `whole`, comes with the next pod's.
    """

    __slots__ = (  # for every event passes here: see EngineConnection
        "_buffer",
        "_data",
        "_data_bytes",
        "_ending",
        "_is_between",
        "_status",
        "_usage",
        "_whole",
        "body",
        "created",
        "done",
        "error",
        "token_ids",
        "wrong",
    )

    def __init__(self, usage: TokenUsage, *, whole: bool) -> None:
        self.token_ids: list[int] = []
        self.created = 0  # Unix time of the answer's beginning, which all its parts must carry
        self.done = False
        self.error: EngineError | None = None
        self.wrong = ""  # why this is no journal; it repeats nothing of it, which may be somebody's answer
        self.body = b""  # the answer, where it is whole
        self._usage = usage
        self._whole = whole
        self.restart()

    def restart(self) -> None:
        """Another pod continues: forget what the last one had not completed."""
        self._buffer = EventBuffer(_LARGEST_ANSWER_BYTES)
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._ending: list[int] = []
        self._status: tuple[int, int] | None = None
        self.error = None
        self.wrong = ""
        self._is_between = False  # nothing of what came is kept, and anything may come

    def feed(self, piece: bytes) -> bytes:
        """What the client may have now: whole events. What comes from where it is `wrong` is dropped."""
        if self._is_between and len(self.token_ids) < _MOST_TOKENS:
            # One event and its one token, as nearly every piece is: the same as below in fewer steps.
            event, _, line = piece.partition(b"\n\n")
            token = line[4:-2]
            is_line = token.isdigit() and line.startswith(_TOKENS) and line.endswith(b"\n\n")
            if is_line and len(token) <= _MOST_DIGITS and event.startswith(_EVENT):
                self.token_ids.append(int(token))
                self._usage.output += 1
                return event + b"\n\n"
        ready = self._blocks(piece)
        self._is_between = self._buffer.is_empty and not (self._data or self._whole or self._status or self.wrong)
        return ready

    def _blocks(self, piece: bytes) -> bytes:
        try:
            whole = self._buffer.is_empty and piece.endswith(b"\n\n")  # as engines write
            complete = piece if whole else self._buffer.feed(piece)
        except EventTooLarge as error:
            self.wrong = self.wrong or str(error)
        if self.wrong or not complete:
            return b""
        ready: list[bytes] = []
        try:
            for block in complete.removesuffix(b"\n\n").split(b"\n\n"):
                if block.startswith(_TOKENS):  # the two that come for every token are first
                    self._release(_numbers(block[len(_TOKENS) :]), ready)
                elif block.startswith(_EVENT) and not self._status:
                    self._hold(block)
                else:
                    self._take(block, ready)
        except _Wrong as error:
            self.wrong = str(error)  # what came before it counts, and its text is the client's
        except ValueError:
            self.wrong = "it has a line that no journal has"
        ready.append(b"")
        return b"\n\n".join(ready)

    def continued(self, body: bytes | bytearray) -> bytes | bytearray:
        """The request `body`, a JSON object, as the next pod needs it."""
        if not self.token_ids:
            return body
        rest = {"token_ids": self.token_ids, "created": self.created}
        return with_field(body, "continuation", json.dumps(rest).encode())

    def _take(self, block: bytes, ready: list[bytes]) -> None:
        if block.startswith(b": "):
            self._read(block[2:], ready)
        elif self._status:
            self.error = EngineError(*self._status, block.removeprefix(b"data: "))
        elif block == _DONE:
            self._finish(ready)
        else:
            self._hold(block)

    def _read(self, line: bytes, ready: list[bytes]) -> None:
        kind, _, rest = line.partition(b" ")
        if kind == b"+":
            self._release(_numbers(rest), ready)
        elif kind == b"end":  # counts with [DONE]
            self._ending = _numbers(rest)
        elif kind == b"prompt" and not self.token_ids:  # until then the answer begins anew with every pod
            self._usage.prompt, self.created = _numbers(rest)
            self._usage.exact = True
        elif kind == b"cached" and not self.token_ids:
            (self._usage.cached,) = _numbers(rest)
        elif kind == b"error":
            status, retry_after_s = _numbers(rest)
            if not 400 <= status < 600 or retry_after_s > _LONGEST_RETRY_S:
                raise ValueError
            self._status = status, retry_after_s

    def _hold(self, block: bytes) -> None:
        """An event that may be passed on when its tokens are known."""
        self._data.append(block)
        self._data_bytes += len(block) + _BLOCK_BYTES
        if self._data_bytes > _LARGEST_ANSWER_BYTES:
            raise _Wrong(f"more than {_LARGEST_ANSWER_BYTES} bytes came without a line of tokens")

    def _release(self, token_ids: list[int], ready: list[bytes]) -> None:
        """These are the tokens of what was held."""
        self._commit(token_ids)
        if not self._whole:
            ready += self._data
            self._data, self._data_bytes = [], 0

    def _commit(self, token_ids: list[int]) -> None:
        if len(self.token_ids) + len(token_ids) > _MOST_TOKENS:
            raise _Wrong(f"the answer has more than {_MOST_TOKENS} tokens")
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


def _numbers(text: bytes) -> list[int]:
    """Non-negative numbers between spaces; ValueError for anything else."""
    found = list(map(int, text.split()))
    if len(found) == 1 and 0 <= found[0] < _LARGEST_NUMBER:
        return found
    if found and not (min(found) >= 0 and max(found) < _LARGEST_NUMBER):
        raise ValueError
    return found
