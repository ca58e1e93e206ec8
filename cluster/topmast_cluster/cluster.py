"""The embedded cluster as one object: start, stop, look, load images, and break things on purpose.

Decides what has to be done; launch.py and teardown.py do it. Holds no state between calls: what runs is read from
the machine, what was asked for from the cluster's record.
"""

import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from topmast_cluster import network, teardown
from topmast_cluster.binaries import Binaries, ensure_binaries
from topmast_cluster.errors import ClusterError
from topmast_cluster.launch import Launch, lay_foundation
from topmast_cluster.locks import cluster_lock
from topmast_cluster.machine import check_machine, ensure_programs
from topmast_cluster.names import Names, node_name
from topmast_cluster.paths import ClusterPaths
from topmast_cluster.progress import Progress
from topmast_cluster.record import API_SERVER, Record


@dataclass(frozen=True)
class Status:
    """`state` is absent, running or broken. `daemons` says of each program whether it is alive."""

    state: str
    daemons: dict[str, bool] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)  # name -> Ready, NotReady, down
    gpus: dict[str, int] = field(default_factory=dict)
    down: list[str] = field(default_factory=list)  # taken down on purpose
    remains: list[str] = field(default_factory=list)  # of a cluster that does not run: what there is of it


class Cluster:
    def __init__(self, name: str = "topmast", progress: Progress | None = None) -> None:
        self.names = Names(name)
        self.paths = ClusterPaths.of(self.names)
        self.progress = progress if progress is not None else Progress()

    @property
    def kubeconfig(self) -> Path:
        return self.paths.kubeconfig

    @cached_property
    def binaries(self) -> Binaries:
        return ensure_binaries(self.progress)

    def start(self, nodes: int = 1, gpus: Mapping[str, int] | None = None) -> None:
        """Brings the cluster up with at least `nodes` nodes (0: control plane only) and the advertised `gpus` per
        node. Where it runs already, adds what is missing; where an earlier run left a wreck, clears it away first."""
        wanted = _wanted_nodes(nodes, gpus or {})
        check_machine()
        ensure_programs(self.progress)
        _ = self.binaries
        with cluster_lock(self.paths):
            launch = self._sound_launch() or self._fresh_launch()
            for name in list(launch.record.down):
                self._bring_back(launch, name)
            missing = [node for node in wanted if node not in launch.record.nodes]
            if missing:
                launch.add_nodes(missing)
            for node, count in (gpus or {}).items():
                self._advertise_gpus(launch, node, count)

    def stop(self) -> None:
        """Removes everything of the cluster, also when half of it is dead or its records are lost."""
        check_machine()
        with cluster_lock(self.paths), self.progress.phase("remove the cluster"):
            teardown.remove_everything(self.names)

    def status(self) -> Status:
        record = Record.load(self.paths.record)
        if record is None:
            remains = teardown.remains(self.names)
            return Status("broken" if remains else "absent", remains=remains)
        launch = self._launch(record)
        alive = {f"{daemon.directory.name}/{daemon.name}": daemon.alive() for daemon in launch.daemons()}
        ready = launch.control_plane.api_ready()
        state = "running" if ready and all(alive.values()) else "broken"
        seen = launch.client.node_states() if ready else {}
        nodes = {name: "down" if name in record.down else seen.get(name, "NotReady") for name in record.nodes}
        remains = [] if state == "running" else teardown.remains(self.names)
        return Status(state, alive, nodes, dict(record.gpus), list(record.down), remains)

    def environment(self) -> dict[str, str]:
        """What kubectl, helm and other clients need."""
        return self._current().client.environment()

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Runs kubectl as the cluster's admin."""
        return self._current().client.kubectl(*arguments, stdin=stdin, check=check, timeout_s=timeout_s)

    def apply_crds(self, path: Path, timeout_s: float = 50) -> None:
        """Applies a CRD's file, or a folder of them; returns when the API server serves them."""
        self.kubectl("apply", "--server-side", "-f", str(path))
        wait = ("wait", "--for=condition=Established", "-f", str(path), f"--timeout={timeout_s:.0f}s")
        end = time.monotonic() + timeout_s
        # A CRD of this moment has no conditions, and then kubectl fails instead of waiting.
        while self.kubectl(*wait, check=time.monotonic() > end).returncode:
            time.sleep(0.1)

    def load_image(self, archive: Path) -> dict[str, float]:
        """Imports the images of an archive into every node that is up; later nodes get it too. Node -> seconds."""
        if not archive.is_file():
            raise ClusterError(f"there is no image archive {archive}: build the images first")
        launch, archive = self._current(), archive.resolve()
        seconds = launch.load_image(archive, [node.name for node in launch.nodes_up()])
        if str(archive) not in launch.record.images:
            launch.record.images.append(str(archive))
            launch.record.save(self.paths.record)
        return seconds

    def set_gpus(self, node: str, count: int) -> None:
        """Advertises `count` GPUs on a node; the scheduler then treats them as scarce."""
        self._advertise_gpus(self._having(node), node, count)

    @property
    def audit_log(self) -> Path:
        """What pods' service accounts asked of the API server, one JSON object a line."""
        return self._current().control_plane.audit_log

    def stop_apiserver(self) -> None:
        """An outage of the API server, at once. Everything else goes on."""
        launch = self._current()
        launch.mark(API_SERVER, down=True)
        launch.control_plane.apiserver().stop(grace_s=0)

    def start_apiserver(self) -> None:
        self._current().start_apiserver()

    def kill_node(self, node: str) -> None:
        """The machine is gone: its cable is pulled and everything on it killed. Kubernetes finds out by itself."""
        launch = self._having(node)
        launch.mark(node, down=True)
        network.unplug(self.names, node)
        launch.node(node).cgroup.kill()
        survivors = launch.nodes_up()
        if survivors:
            network.route_services(self.names, launch.addresses, survivors[0].name)

    def restart_node(self, node: str) -> None:
        """The machine is back, with its disk, and without what ran on it."""
        self._having(node).restart_node(node)

    def _sound_launch(self) -> Launch | None:
        """None unless every program lives that should."""
        record = Record.load(self.paths.record)
        if record is None:
            return None
        launch = self._launch(record)
        return launch if all(daemon.alive() for daemon in launch.daemons()) else None

    def _fresh_launch(self) -> Launch:
        if teardown.remains(self.names):
            with self.progress.phase("clear an earlier run away"):
                teardown.remove_everything(self.names)
        launch = self._launch(lay_foundation(self.names, self.paths))
        launch.start_control_plane()
        return launch

    def _bring_back(self, launch: Launch, name: str) -> None:
        with self.progress.phase(f"bring {name} back"):
            if name == API_SERVER:
                launch.start_apiserver()
            else:
                launch.restart_node(name)

    def _advertise_gpus(self, launch: Launch, node: str, count: int) -> None:
        if launch.record.gpus.get(node, 0) != count:
            launch.client.advertise_gpus(node, count)
            launch.record.gpus[node] = count
            launch.record.save(self.paths.record)

    def _having(self, node: str) -> Launch:
        launch = self._current()
        if node not in launch.record.nodes:
            known = ", ".join(launch.record.nodes) or "no nodes at all"
            raise ClusterError(f"the cluster {self.names.cluster} has no {node}; it has {known}")
        return launch

    def _current(self) -> Launch:
        record = Record.load(self.paths.record)
        if record is None:
            name = self.names.cluster
            raise ClusterError(
                f"there is no cluster {name!r}: start it with `python -m topmast_cluster --name {name} start`"
            )
        return self._launch(record)

    def _launch(self, record: Record) -> Launch:
        return Launch(self.names, self.paths, self.binaries, record, self.progress)


def _wanted_nodes(nodes: int, gpus: Mapping[str, int]) -> list[str]:
    if not 0 <= nodes <= 99:
        raise ClusterError(f"{nodes} nodes: a cluster has 0 (control plane only) to 99")
    wanted = [node_name(number) for number in range(1, nodes + 1)]
    for node, count in gpus.items():
        if node not in wanted or count < 0:
            can = ", ".join(wanted) or "no node"
            raise ClusterError(f"{count} GPUs on {node!r}: GPUs are a number from 0 on one of {can}")
    return wanted
