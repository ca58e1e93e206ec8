"""The identity of a process, and pid files that cannot point at a stranger.

A pid alone is reused; a pid with its start time and the machine's boot is not.
"""

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    pid: int
    start_ticks: int  # field 22 of /proc/PID/stat, clock ticks since boot
    boot: str

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """None when there is no such process, or only its zombie (not every PID 1 reaps at once)."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat[stat.rindex(")") + 2 :].split()  # the name before may hold spaces and brackets
        if fields[0] in ("Z", "X"):
            return None
        return cls(pid, int(fields[19]), _boot_id())

    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self

    def signal(self, number: signal.Signals) -> None:
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after `grace_s`; returns when it is gone."""
        if grace_s > 0:
            self.signal(signal.SIGTERM)
            if self._gone_within(grace_s):
                return
        self.signal(signal.SIGKILL)
        if not self._gone_within(10):
            raise TimeoutError(
                f"process {self.pid} outlives SIGKILL: it hangs in the kernel, see /proc/{self.pid}/stack"
            )

    def _gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        reap(self.pid)
        return True


def write_pid_file(path: Path, process: ProcessId) -> None:
    path.write_text(json.dumps({"pid": process.pid, "start": process.start_ticks, "boot": process.boot}))


def read_pid_file(path: Path) -> ProcessId | None:
    """The process that the file names, alive or not. None when there is no file, or a torn one."""
    try:
        record = json.loads(path.read_text())
        return ProcessId(int(record["pid"]), int(record["start"]), str(record["boot"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def reap(pid: int) -> None:
    """Takes the zombie away if the process was our own child."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
