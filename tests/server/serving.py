"""A real `topmast serve` as users start it: on free loopback ports, ended by its id."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from topmast_server.progress import Progress, Snapshot

PATIENCE_S = 120.0  # for what has no promise of its own: busy machines stand still for seconds


class Server:
    """One `topmast serve` process and what it has printed."""

    def __init__(self, folder: Path, model: str, *flags: str, environment: dict[str, str] | None = None) -> None:
        self.termination_log = folder / "termination-log"
        command = [sys.executable, "-m", "topmast_cli.main", "serve", model]
        command += ["--port", "0", "--admin-port", "0", "--termination-log", str(self.termination_log), *flags]
        self.started_s = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for_line(self, pattern: str, timeout_s: float = PATIENCE_S) -> re.Match[str]:
        """The first printed line that matches; fails with everything printed where none comes."""
        deadline = time.monotonic() + timeout_s
        with self._news:
            while True:
                for line in self.lines:
                    if match := re.search(pattern, line):
                        return match
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    pytest.fail(f"no line {pattern!r} in:\n" + "\n".join(self.lines))
                self._news.wait(min(left, 0.5))

    def wait_ready(self) -> float:
        """Seconds from process start to the ready line."""
        self.wait_for_line(r"^ready in ")
        return time.monotonic() - self.started_s

    @property
    def url(self) -> str:
        return self.wait_for_line(r"^listening on (\S+) \(admin (\S+)\)")[1]

    @property
    def admin_url(self) -> str:
        return self.wait_for_line(r"^listening on (\S+) \(admin (\S+)\)")[2]

    def state(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.admin_url}/state", timeout=PATIENCE_S).json())

    def work(self) -> dict[str, int]:
        return dict(self.state()["work"])

    def wait_idle(self, timeout_s: float = PATIENCE_S) -> float:
        """Until no request is answered, no sequence runs or waits and no KV is held; the seconds that it took."""
        began_s = time.monotonic()
        while True:
            work = self.work()
            waited_s = time.monotonic() - began_s
            held = {name: work[name] for name in ("running", "waiting", "waiting_prompt_tokens", "kv_tokens_used")}
            held["unfinished"] = work["requests_total"] - work["requests_finished_total"]
            if not any(held.values()):
                return waited_s
            assert waited_s < timeout_s, f"still held after {timeout_s} s: {held}"
            time.sleep(0.02)

    def wait_work(self, name: str, at_least: int, timeout_s: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + timeout_s
        while self.work()[name] < at_least:
            assert time.monotonic() < deadline, f"{name} never reached {at_least}: {self.work()}"
            time.sleep(0.02)

    @property
    def engine_pid(self) -> int:
        """The one child process."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (pid,) = children
        return int(pid)

    def progress(self) -> Snapshot:
        """What the engine did last, from its page; readable while it is frozen, and until it is gone."""
        folder = Path(f"/proc/{self.engine_pid}/fd")
        page = next(fd for fd in folder.iterdir() if "topmast-progress" in str(fd.readlink()))
        progress = Progress(os.open(page, os.O_RDWR))
        try:
            return progress.read()
        finally:
            progress.close()

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait_exit(self, timeout_s: float = PATIENCE_S) -> int:
        code = self.process.wait(timeout_s)
        self._reader.join(30)
        return code

    def last_words(self) -> dict[str, str]:
        return dict(json.loads(self.termination_log.read_text()))

    def end(self) -> None:
        """No process is left behind, whatever the test did to it."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(self.engine_pid, signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self._reader.join(5)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()


def least(measure: Callable[[], float], promised: float, tries: int = 3) -> float:
    """The least of a few measurements, none of them needed after one that keeps the promise.

    A machine that stood still in the midst of one says nothing about the server.
    """
    values = [measure()]
    while min(values) > promised and len(values) < tries:
        values.append(measure())
    return min(values)


def start_slowness() -> float:
    """How much slower than a quiet machine of two cores this one starts a process that needs torch: at least 1.

    Unlike `crowding`, it also sees neighbours that take memory bandwidth and cache instead of CPU time.
    """
    began_s = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return max(1.0, (time.monotonic() - began_s) / 1.9)


def crowding() -> float:
    """How much longer a second of CPU takes on this machine now, with both cores asked for: 1 when nobody else is here.

    Promises in seconds are made for a machine of one's own; on a shared one they are stretched by this.
    """
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    began_s = time.monotonic()
    burning = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(2)]
    for process in burning:
        process.wait()
    return max(1.0, (time.monotonic() - began_s) / 0.45)
