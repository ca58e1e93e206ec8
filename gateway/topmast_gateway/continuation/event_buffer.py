"""Cuts a byte stream after its last blank line: whoever reads it sees whole events, whatever pieces they come in.

Every byte is looked at once and kept within a bound, also where no blank line ever comes.
"""

from __future__ import annotations

LARGEST_EVENT_BYTES = 4 * 1024 * 1024


class EventTooLarge(Exception):
    """No blank line came within the bound."""


class EventBuffer:
    """Engines write whole events, so this rarely waits."""

    def __init__(self, largest_bytes: int = LARGEST_EVENT_BYTES) -> None:
        self._largest_bytes = largest_bytes
        self._pieces: list[bytes] = []
        self.is_empty = True  # the last piece ended with an event
        self._size = 0
        self._tail = b""  # of what is kept: a blank line may come in two pieces

    @property
    def rest(self) -> bytes:
        """What follows the last blank line."""
        return b"".join(self._pieces)

    def feed(self, piece: bytes) -> bytes:
        """Everything up to the last blank line; raises EventTooLarge where too much came without one."""
        joint = self._tail + piece
        lf, crlf = joint.rfind(b"\n\n"), joint.rfind(b"\r\n\r\n")
        end = max(lf + 2 if lf >= 0 else 0, crlf + 4 if crlf >= 0 else 0) - len(self._tail)
        if end <= 0:
            self._keep(piece)
            return b""
        complete = b"".join((*self._pieces, piece[:end])) if self._pieces else piece[:end]
        self._pieces, self._size, self._tail, self.is_empty = [], 0, b"", True
        self._keep(piece[end:])
        return complete

    def _keep(self, piece: bytes) -> None:
        if not piece:
            return
        self._pieces.append(piece)
        self.is_empty = False
        self._size += len(piece)
        self._tail = (self._tail + piece)[-3:]
        if self._size > self._largest_bytes:
            raise EventTooLarge(f"no event ended within {self._largest_bytes} bytes")
