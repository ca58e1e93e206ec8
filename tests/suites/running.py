"""One step under way: `make TARGET` in a process group of its own, its output in a file, its tests' outcomes beside."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from suites.outcomes import Outcomes, read_outcomes
from suites.plan import Kind, Step

GRACE_S = 90.0  # for an interrupted suite to remove its clusters
GIVE_WAY = ("nice", "-n", "10")  # a tenth of a core where somebody else wants all of it


def end_by_interrupt() -> None:
    """SIGTERM and SIGINT both raise KeyboardInterrupt here, and SIGINT ends what is started from here on.

    A shell lets its background jobs ignore SIGINT, and whatever they start with them, so that nothing could be ended
    in an orderly way. A handler of our own undoes that: handlers do not outlive the start of another program.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@dataclass(frozen=True)
class Result:
    """How a step ended; `flaky` are tests that failed, and passed when they were run once more."""

    step: Step
    code: int
    seconds: float
    outcomes: Outcomes
    flaky: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.code == 0


class Running:
    """Started by its construction. `only` are the tests to run instead of all of the suite's.

    The Makefile is in `root`, and `folder`, for the files, is below it.
    """

    def __init__(self, step: Step, root: Path, folder: Path, only: tuple[str, ...] = ()) -> None:
        self.step = step
        name = f"{step.target}-again" if only else step.target
        self.log, self._outcomes = folder / f"{name}.log", folder / f"{name}.jsonl"
        self._outcomes.unlink(missing_ok=True)
        command = ["make", "--no-print-directory", step.target]
        command += [f"PYTEST_OPTIONS=--outcomes={self._outcomes.relative_to(root)}"]
        if only:
            listed = folder / f"{name}.txt"
            listed.write_text("\n".join(only))  # pytest reads arguments from a file: names hold blanks and quotes
            command += [f"TESTS=@{listed.relative_to(root)}"]
        elif step.kind is Kind.COMPUTES:
            command = [*GIVE_WAY, *command]
        # What an outer make was told, or tells its children, is not for this one.
        outer = ("MAKEFLAGS", "MFLAGS", "TESTS", "PYTEST_OPTIONS")
        environment = {key: value for key, value in os.environ.items() if key not in outer}
        self._began_s = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def outcomes(self) -> Outcomes:
        """Of the tests that have ended so far."""
        return read_outcomes(self._outcomes)

    def result(self) -> Result | None:
        """None while it runs."""
        code = self._process.poll()
        return None if code is None else Result(self.step, code, time.monotonic() - self._began_s, self.outcomes())

    def interrupt(self) -> None:
        """As Ctrl-C does, so that fixtures end what they have started."""
        self._signal(signal.SIGINT)

    def wait_or_kill(self) -> None:
        """After `interrupt`: until all of its processes are gone, the last ones by force."""
        deadline_s = time.monotonic() + GRACE_S
        while self._process.poll() is None or self._signal(0):
            if time.monotonic() > deadline_s:
                self._signal(signal.SIGKILL)
            time.sleep(0.1)

    def _signal(self, number: int) -> bool:
        """Whether there was anybody in the group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
            return True
        return False
