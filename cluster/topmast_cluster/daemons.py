"""Long-running programs: started detached from the terminal, known by pid file, watched until healthy."""

import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from topmast_cluster.cgroups import Cgroup
from topmast_cluster.errors import ClusterError
from topmast_cluster.process import ProcessId, read_pid_file, write_pid_file

# The shell enters the cgroups before the program runs, so that everything it ever starts is inside as well.
_ENTER = 'cd / && for f in $CGROUP_PROCS; do echo $$ > "$f" || exit 96; done; unset CGROUP_PROCS; exec "$@"'


@dataclass(frozen=True)
class Daemon:
    """One program with its log and pid file in `directory`, run in `netns` and `cgroup`."""

    name: str
    directory: Path
    netns: str
    cgroup: Cgroup
    command: Sequence[str | Path]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        return self.directory / f"{self.name}.pid"

    def start(self) -> None:
        """`nsenter --net`, not `ip netns exec`: the latter makes a mount namespace of its own, and kubelet's
        mounts would be invisible to containerd."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.cgroup.create()
        files = " ".join(str(path) for path in self.cgroup.procs_files())
        program = [str(part) for part in self.command]
        arguments = ["/bin/sh", "-c", _ENTER, "sh", _which("nsenter"), f"--net=/var/run/netns/{self.netns}", *program]
        with self.log.open("ab") as log:
            pid = os.posix_spawn(
                arguments[0],
                arguments,
                {"PATH": _PATH, "HOME": "/root", **self.environment, "CGROUP_PROCS": files},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
                ],
                setsid=True,
            )
        process = ProcessId.of(pid)
        if process is None:
            raise ClusterError(f"{self.name} ended as it started: {self.last_words()}")
        write_pid_file(self.pid_file, process)

    def process(self) -> ProcessId | None:
        return read_pid_file(self.pid_file)

    def alive(self) -> bool:
        process = self.process()
        return process is not None and process.alive()

    def stop(self, grace_s: float = 5.0) -> None:
        process = self.process()
        if process is not None:
            process.stop(grace_s)
        self.pid_file.unlink(missing_ok=True)

    def last_words(self, lines: int = 12) -> str:
        """Where the log is and how it ends, for an error message."""
        try:
            text = self.log.read_text(errors="replace").strip().splitlines()
        except FileNotFoundError:
            text = []
        return f"see {self.log}, which ends with:\n" + "\n".join(text[-lines:])

    def wait(self, healthy: Callable[[], bool], timeout_s: float) -> None:
        """Until `healthy()`; an early death or the timeout becomes an error that shows the log's end."""
        deadline = time.monotonic() + timeout_s
        while not healthy():
            if not self.alive():
                raise ClusterError(f"{self.name} died while it started; {self.last_words()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{self.name} was not healthy after {timeout_s:.0f} s; {self.last_words()}")
            time.sleep(0.05)


def answers_ok(url: str, ca: Path | None = None, timeout_s: float = 2.0) -> bool:
    """Does `url` answer 200? The certificate is verified against `ca`; no proxy of the user's is asked."""
    context = ssl.create_default_context(cafile=str(ca) if ca is not None else None)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _which(program: str) -> str:
    found = shutil.which(program, path=_PATH)
    if found is None:
        raise ClusterError(f"{program} is not in {_PATH}: install it and try again")
    return found
