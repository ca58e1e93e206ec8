"""Shows a person what a long phase is doing: one line that updates on a terminal, else a line every 15 s."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

_REPEAT_S = 15.0


@dataclass
class Progress:
    """Phases with their seconds. `seconds` keeps what each phase took, in order."""

    out: TextIO = field(default_factory=lambda: sys.stderr)
    quiet: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[[str], None]]:
        """Times `name`; the value is called with details ("412 packages") as often as one likes."""
        began = shown = time.monotonic()
        live = self.out.isatty() and not self.quiet

        def detail(text: str) -> None:
            nonlocal shown
            now = time.monotonic()
            if live and now - shown > 0.1:
                self._write(f"\r\033[K    {name}: {text}, {now - began:.0f} s", end="")
                shown = now
            elif not live and now - shown > _REPEAT_S:
                self._write(f"    {name}: {text}, {now - began:.0f} s")
                shown = now

        done = False
        try:
            yield detail
            done = True
        finally:
            took = time.monotonic() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            lead = "\r\033[K" if live else ""
            self._write(f"{lead}  {name:<28} {took:6.1f} s{'' if done else '  failed'}")

    def say(self, text: str) -> None:
        self._write(f"  {text}")

    def _write(self, text: str, end: str = "\n") -> None:
        if not self.quiet:
            self.out.write(text + end)
            self.out.flush()
