"""A mounted file that is replaced while the program runs, as Secrets and ConfigMaps are."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_LOOK_EVERY_S: Final = 1.0
_MOST_BYTES: Final = 1 << 20


class WatchedFile(Generic[T]):
    """`parse` makes a value of the bytes, or raises ValueError. A file that cannot be used leaves the last value.

    `complain` is given a sentence when there is something new to say, and not again for the same.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], T],
        complain: Callable[[str], None],
        *,
        without: str = "there is nothing to go on with",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`without` is what it means that the file could never be read."""
        self.path = path
        self._parse = parse
        self._complain = complain
        self._without = without
        self._clock = clock
        self._value: T | None = None
        self._seen: tuple[int, int, int] | None = None  # what told one content from another
        self._looked_at = float("-inf")
        self._trouble = ""

    def now(self) -> T | None:
        """The value of what the file holds, or last held; None until it could be read once. Looks once a second."""
        now = self._clock()
        if now - self._looked_at >= _LOOK_EVERY_S:
            self._looked_at = now
            try:
                self._look()
            except (OSError, ValueError) as error:
                self._note((isinstance(error, OSError) and error.strerror) or str(error))
        return self._value

    def read(self) -> T:
        """Like `now`, at once; OSError or ValueError where the file cannot be used."""
        self._looked_at, self._seen = self._clock(), None
        self._look()
        assert self._value is not None
        return self._value

    def _look(self) -> None:
        status = self.path.stat()
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return
        with self.path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
        self._seen = seen
        if len(raw) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
        self._value = self._parse(raw)
        self._trouble = ""

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            then = self._without if self._value is None else "what it held before stays in force"
            self._complain(f"cannot use {self.path}, {then}: {trouble}")
