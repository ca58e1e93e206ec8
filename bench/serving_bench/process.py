"""A contestant's server process on this machine: started, waited for, watched through /proc, and stopped by its id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serving_bench import machine
from serving_bench.client import Ask, Endpoint, exchange
from serving_bench.figures import slope_per_minute

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_POLL_S: Final = 0.02
_SAMPLE_S: Final = 0.5
_LAST_LINES: Final = 15


class StartError(Exception):
    """A server did not become ready; the message has its last lines."""


@dataclass(frozen=True)
class Command:
    """How to start a server. `{port}` and `{admin_port}` in the arguments are replaced by free ports."""

    arguments: tuple[str, ...]
    model: str  # the name that requests give
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    ready_path: str = "/health"
    start_timeout_s: float = 120.0

    def shown(self) -> str:
        """For the results: the same words on every machine, so files and folders by their last name only."""
        words = [*(f"{name}={value}" for name, value in self.environment.items() if value), *self.arguments]
        return " ".join(re.sub(r"(^|=)/[^= ]*/", r"\1", word) for word in words if not word.startswith("PYTHONPATH="))


@dataclass
class Server:
    """A running server. `first_token_s` is from the start of its process, 20 ms polling included."""

    command: Command
    process: subprocess.Popen[bytes]
    endpoint: Endpoint
    admin_port: int
    log: Path
    ready_s: float = 0.0
    first_token_s: float = 0.0

    def pids(self) -> list[int]:
        """The process and all that descend from it."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    queue += [int(child) for child in (task / "children").read_text().split()]
        return found

    def cpu_s(self, pids: Sequence[int] | None = None) -> float:
        """User and system time so far, of all its processes or of some."""
        return sum(_cpu_ticks(pid) for pid in (self.pids() if pids is None else pids)) / _TICKS_PER_S

    def rss_bytes(self) -> int:
        """Resident memory of all its processes; pages that they share count more than once."""
        return sum(_rss_pages(pid) for pid in self.pids()) * _PAGE_BYTES

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what is left after ten seconds; never anybody else's process."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


async def start(command: Command, log: Path) -> Server:
    """Start it and wait for its first token; raises StartError."""
    port, admin_port = _free_ports(2)
    arguments = [part.format(port=port, admin_port=admin_port) for part in command.arguments]
    began_s = time.monotonic()
    process = _launch(arguments, command.environment, log)
    server = Server(command, process, Endpoint(port, command.model), admin_port, log)
    try:
        while await status(port, command.ready_path) != 200:
            if process.poll() is not None or time.monotonic() - began_s > command.start_timeout_s:
                raise StartError(f"{arguments[0]} is not ready: " + _last_lines(log))
            await asyncio.sleep(_POLL_S)
        server.ready_s = time.monotonic() - began_s
        first = await exchange(server.endpoint, Ask(list(range(1000, 1016)), 1))
        if not first.complete:
            raise StartError(f"{arguments[0]} was ready and answered {first.error}: " + _last_lines(log))
        server.first_token_s = first.events_s[0] - began_s
    except BaseException:
        server.stop()
        raise
    return server


def _launch(arguments: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            arguments,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own group, so that stop() reaches children that outlive it
        )


async def status(port: int, path: str) -> int:
    """The status of a GET, 0 where nobody answers."""
    head, _ = await get(port, path)
    return int(head.split(b" ", 2)[1]) if head else 0


async def get(port: int, path: str) -> tuple[bytes, bytes]:
    """Head and body of a GET; both empty where nobody answers within ten seconds."""
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read(-1)
            writer.close()
    except (OSError, TimeoutError):
        return b"", b""
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@contextlib.asynccontextmanager
async def watched(server: Server) -> AsyncIterator[dict[str, Any]]:
    """Fills the yielded dictionary at the end: CPU and memory of the server, CPU of this client and of everybody else.

    elsewhere_share: of all cores, what neither server nor client used; 0 on a machine of one's own.
    """
    usage: dict[str, Any] = {}
    samples: list[tuple[float, float]] = []
    began_s, own_s, its_s, all_s = time.monotonic(), time.process_time(), server.cpu_s(), machine.used_s()

    async def sample() -> None:
        while True:
            samples.append((time.monotonic() - began_s, server.rss_bytes() / 2**20))
            await asyncio.sleep(_SAMPLE_S)

    sampling = asyncio.create_task(sample())
    try:
        yield usage
    finally:
        sampling.cancel()
        its_s, own_s, all_s = server.cpu_s() - its_s, time.process_time() - own_s, machine.used_s() - all_s
        capacity_s = (time.monotonic() - began_s) * machine.cores()
        usage["elsewhere_share"] = round(max(0.0, all_s - its_s - own_s) / capacity_s, 3)
        samples.append((time.monotonic() - began_s, server.rss_bytes() / 2**20))
        usage["server_cpu_s"], usage["client_cpu_s"] = round(its_s, 3), round(own_s, 3)
        usage["client_share"] = round(own_s / its_s, 4) if its_s else None
        usage["rss_mib"] = {"first": round(samples[0][1], 1), "last": round(samples[-1][1], 1)}
        usage["rss_mib"]["most"] = round(max(value for _, value in samples), 1)
        # Buffers and caches fill in the beginning: growth that matters goes on in the second half.
        later = samples[len(samples) // 2 :]
        usage["rss_mib"]["per_minute"] = round(slope_per_minute(later), 3)


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0  # it has just ended
    return int(fields[11]) + int(fields[12])


def _rss_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0


def _free_ports(count: int) -> Sequence[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _last_lines(log: Path) -> str:
    return "\n".join(["its last lines are", *log.read_text(errors="replace").splitlines()[-_LAST_LINES:]])
