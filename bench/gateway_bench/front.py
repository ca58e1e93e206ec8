"""The gateway under measurement: a control plane without nodes, the responder as its only pod, a core of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from checkout import cluster_name, network
from gateway.lab.stage import KEY, SYSTEM, Gateway, Stage
from gateway_bench import responder
from gateway_bench.client import Target
from topmast_cluster.cluster import Cluster

ROOT: Final = Path(__file__).resolve().parents[2]
ADDRESS: Final = f"127.{network()}.255.1"  # beyond those of the tests
ABUSER: Final = "tm-" + "a" * 40
_NAMESPACE, _MODEL = "bench", "bench"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Front:
    """A running gateway, and how to reach the responder through it and past it."""

    gateway: Gateway
    through: Target
    direct: Target

    @property
    def pid(self) -> int:
        return self.gateway.process.pid

    def cpu_s(self) -> float:
        """User and system time of the gateway so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def waited_s(self) -> float:
        """How long its main thread was ready to run and had no core: other people's noise, not its own slowness."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    def rss_mib(self) -> float:
        """Its resident memory now."""
        return self._status("VmRSS")

    def forget_peak(self) -> None:
        """Begin to look for the most memory anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """The most resident memory since `forget_peak`."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
        raise ValueError(f"the kernel tells no {name} of process {self.pid}")


def own_cluster() -> Cluster:
    """Of the benchmark alone; the control plane's programs run in it."""
    return Cluster(cluster_name("bench-gw"))


@contextlib.contextmanager
def control_plane() -> Iterator[Stage]:
    """etcd and an API server with our CRDs and one key, ended at the end."""
    cluster = own_cluster()
    cluster.stop()
    try:
        cluster.start(nodes=0)
        cluster.apply_crds(ROOT / "crds")
        stage = Stage(cluster.kubeconfig)
        stage.namespace(SYSTEM)
        stage.keys(bench=KEY, abuser=ABUSER)
        yield stage
    finally:
        cluster.stop()


@contextlib.contextmanager
def running(stage: Stage, *under: str) -> Iterator[Front]:
    """The gateway before the responder. `under` are Python's arguments before the gateway's own, for a profiler."""
    with contextlib.ExitStack() as stack:
        stage.namespace(_NAMESPACE)
        engine = _responder()
        stack.callback(engine.wait)
        stack.callback(engine.kill)
        stage.model(_NAMESPACE, _MODEL)
        stage.pod(_NAMESPACE, _MODEL, ADDRESS)
        gateway = Gateway(stage.kubeconfig, "--drain-notice-s", "0", "--requests-per-pod", "2000", under=under)
        stack.callback(gateway.close)
        gateway.wait_ready().sees(f"{_NAMESPACE}/{_MODEL}", 1)
        host, port = gateway.url.removeprefix("http://").split(":")
        through = Target(host, int(port), f"{_NAMESPACE}/{_MODEL}", KEY)
        yield Front(gateway, through, Target(ADDRESS, responder.PORT, _MODEL, "none"))
        gateway.stop()


@contextlib.contextmanager
def pinned(front: Front) -> Iterator[bool]:
    """The gateway alone on one core, as far as we decide; False where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        yield False
        return
    _pin(front.pid, {cores[0]})
    os.sched_setaffinity(0, cores[1:])
    try:
        yield True
    finally:
        os.sched_setaffinity(0, cores)
        _pin(front.pid, set(cores))


def _pin(pid: int, cores: set[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


@contextlib.contextmanager
def abused(front: Front) -> Iterator[None]:
    """One key does all it can to the gateway while the block runs."""
    target = front.through
    command = [sys.executable, "-m", "gateway_bench.abuse", target.host, str(target.port), target.model, ABUSER]
    abuser = _started(command, b"begins\n", "the abuser does not begin")
    try:
        yield
    finally:
        abuser.kill()
        abuser.wait()


def _responder() -> subprocess.Popen[bytes]:
    trouble = f"the responder cannot listen on {ADDRESS}:{responder.PORT}; is another benchmark running?"
    return _started([sys.executable, "-m", "gateway_bench.responder", ADDRESS], b"listening\n", trouble)


def _started(command: list[str], word: bytes, trouble: str) -> subprocess.Popen[bytes]:
    """A program of this package that has said its first word."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    if process.stdout.readline() != word:
        process.kill()
        raise RuntimeError(trouble)
    return process
