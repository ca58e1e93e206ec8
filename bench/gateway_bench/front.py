"""The gateway under measurement: a control plane without nodes, the responder as its only pod, a core of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from checkout import cluster_name, network
from gateway.lab.stage import KEY, SECRET, SYSTEM, Gateway, Stage, hashed
from gateway_bench import responder
from gateway_bench.client import Target
from topmast_cluster.cluster import Cluster

ROOT: Final = Path(__file__).resolve().parents[2]
ADDRESS: Final = f"127.{network()}.255.1"  # beyond those of the tests
_RELAY: Final = f"127.{network()}.255.2"
ABUSER: Final = "tm-" + "a" * 40
LARGE: Final = "tm-" + "l" * 40
NAMESPACE, MODEL = "bench", "bench"
FLAGS: Final = ("--namespace", NAMESPACE, "--drain-notice-s", "0", "--requests-per-pod", "2000")
_SCHEDULED: Final = 2  # of clock_getcpuclockid(3): all threads of a process, in nanoseconds


@dataclass(frozen=True)
class Front:
    """What stands between clients and the responder: a gateway, or several, or something to compare it with."""

    stage: Stage
    pids: tuple[int, ...]
    ways: tuple[Target, ...]  # through it; clients take turns
    direct: Target
    engine_pid: int

    @property
    def through(self) -> Target:
        return self.ways[0]

    def way(self, number: int) -> Target:
        """The one of this client."""
        return self.ways[number % len(self.ways)]

    def cpu_s(self) -> float:
        """User and system time so far."""
        return sum(map(process_cpu_s, self.pids))

    def waited_s(self) -> float:
        """How long main threads were ready to run and had no core: other people's noise, not its own slowness."""
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) for pid in self.pids) / 1e9

    def rss_mib(self) -> float:
        """Its resident memory now."""
        return self._status("VmRSS")

    def forget_peak(self) -> None:
        """Begin to look for the most memory anew."""
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """The most resident memory since `forget_peak`."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        return sum(memory_mib(pid, "status", name) for pid in self.pids)


def process_cpu_s(pid: int) -> float:
    """User and system time of a process so far. /proc has it in ticks of 10 ms, too coarse for a second of events."""
    return time.clock_gettime(~pid << 3 | _SCHEDULED)


def memory_mib(pid: int, file: str, name: str) -> float:
    """A figure of /proc/PID/status or smaps_rollup."""
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise ValueError(f"the kernel tells no {name} of process {pid}")


def own_cluster() -> Cluster:
    """Of the benchmark alone; the control plane's programs run in it."""
    return Cluster(cluster_name("bench-gw"))


@contextlib.contextmanager
def control_plane() -> Iterator[Stage]:
    """etcd and an API server with our CRDs, and a Secret of keys, ended at the end."""
    cluster = own_cluster()
    cluster.stop()
    try:
        cluster.start(nodes=0)
        cluster.apply_crds(ROOT / "crds")
        stage = Stage(cluster.kubeconfig)
        stage.namespace(SYSTEM)
        stage.keys(bench=KEY)
        yield stage
    finally:
        cluster.stop()


@contextlib.contextmanager
def running(stage: Stage, *under: str) -> Iterator[Front]:
    """The gateway before the responder. `under` are Python's arguments before the gateway's own, for a profiler."""
    with contextlib.ExitStack() as stack:
        stage.namespace(NAMESPACE)
        stack.enter_context(more_keys(stage, abuser=hashed(ABUSER), large=hashed(LARGE)))
        engine = _responder()
        stack.callback(_end, engine)
        stage.model(NAMESPACE, MODEL)
        stage.pod(NAMESPACE, MODEL, ADDRESS)
        gateway = stack.enter_context(another(stage, under=under))
        direct = Target(ADDRESS, responder.PORT, MODEL, "none")
        yield Front(stage, (gateway.process.pid,), (target(gateway, KEY),), direct, engine.pid)


@contextlib.contextmanager
def another(stage: Stage, *flags: str, under: tuple[str, ...] = ()) -> Iterator[Gateway]:
    """A gateway that sees the responder."""
    gateway = Gateway(stage.kubeconfig, *FLAGS, *flags, under=under)
    try:
        gateway.wait_ready().sees(f"{NAMESPACE}/{MODEL}", 1)
        yield gateway
        gateway.stop()
    finally:
        gateway.close()


def target(gateway: Gateway, key: str) -> Target:
    """The model as a client with this key asks for it."""
    host, port = gateway.url.partition("://")[2].split(":")
    return Target(host, int(port), f"{NAMESPACE}/{MODEL}", key)


@contextlib.contextmanager
def more_keys(stage: Stage, **entries: str) -> Iterator[None]:
    """These entries in the Secret while the block runs: a gateway that starts in it knows them."""
    stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"stringData": entries})
    try:
        yield
    finally:
        stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"data": dict.fromkeys(entries)})


@contextlib.contextmanager
def relayed(front: Front) -> Iterator[Front]:
    """A relay that reads nothing in the gateway's place, its clients asking for what the gateway asks for.

    They ask for the journal, too: the gateway reads those lines, and a relay without them would carry fewer bytes.
    """
    where = (_RELAY, responder.PORT)
    command = [sys.executable, "-m", "gateway_bench.raw_relay", *map(str, (*where, ADDRESS, responder.PORT))]
    relay = started(command, b"listening\n", f"the raw relay cannot listen on {_RELAY}:{responder.PORT}")
    try:
        yield replace(front, pids=(relay.pid,), ways=(Target(*where, MODEL, "none", journal=True),))
    finally:
        _end(relay)


@contextlib.contextmanager
def pinned(front: Front) -> Iterator[bool]:
    """The front on one core, clients and responder on the others; False where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        yield False
        return
    others = {*cores[1:]}
    for pid in front.pids:
        _pin(pid, {cores[0]})
    _pin(front.engine_pid, others)
    os.sched_setaffinity(0, others)
    try:
        yield True
    finally:
        os.sched_setaffinity(0, cores)
        for pid in (front.engine_pid, *front.pids):
            _pin(pid, {*cores})


def _pin(pid: int, cores: set[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


@contextlib.contextmanager
def abused(front: Front) -> Iterator[None]:
    """One key does all it can to the gateway while the block runs."""
    target = front.through
    command = [sys.executable, "-m", "gateway_bench.abuse", target.host, str(target.port), target.model, ABUSER]
    abuser = started(command, b"begins\n", "the abuser does not begin")
    try:
        yield
    finally:
        _end(abuser)


def _responder() -> subprocess.Popen[bytes]:
    trouble = f"the responder cannot listen on {ADDRESS}:{responder.PORT}; is another benchmark running?"
    return started([sys.executable, "-m", "gateway_bench.responder", ADDRESS], b"listening\n", trouble)


def started(command: list[str], word: bytes, trouble: str) -> subprocess.Popen[bytes]:
    """A program of this package that has said its first word."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    if process.stdout.readline() != word:
        process.kill()
        raise RuntimeError(trouble)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
