"""The embedded cluster as one object: start, stop, look, load images, and break things on purpose.

Decides the order of things; how each is done stands in the other modules. Holds no state between calls: what runs
is read from the machine, what was asked for from the cluster's record.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from topmast_cluster import network, sysctls, teardown
from topmast_cluster.addresses import Addresses, choose_addresses
from topmast_cluster.archive import write_image
from topmast_cluster.binaries import Binaries, ensure_binaries
from topmast_cluster.cgroups import Cgroup
from topmast_cluster.containerd import PAUSE_IMAGE
from topmast_cluster.controlplane import ControlPlane
from topmast_cluster.daemons import Daemon
from topmast_cluster.errors import ClusterError
from topmast_cluster.locks import cluster_lock, machine_lock
from topmast_cluster.machine import check_machine, cni_bin_dir, ensure_programs
from topmast_cluster.names import Names, node_name, node_number
from topmast_cluster.node import Node
from topmast_cluster.paths import ClusterPaths, cache_dir
from topmast_cluster.pki import Authority
from topmast_cluster.progress import Progress
from topmast_cluster.record import Record

_API = "kube-apiserver"


@dataclass(frozen=True)
class Status:
    """`state` is absent, running or broken. `daemons` says of each program whether it is alive."""

    state: str
    daemons: dict[str, bool] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)  # name -> Ready, NotReady, down
    gpus: dict[str, int] = field(default_factory=dict)
    remains: list[str] = field(default_factory=list)


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

    # ---- life

    def start(self, nodes: int = 1, gpus: Mapping[str, int] | None = None) -> None:
        """Brings the cluster up with at least `nodes` nodes (0: control plane only) and the advertised `gpus` per
        node. Where it runs already, adds what is missing; where an earlier run left a wreck, clears it away first."""
        wanted = [node_name(number) for number in range(1, nodes + 1)]
        for node, count in (gpus or {}).items():
            if node not in wanted or count < 0:
                raise ClusterError(f"{count} GPUs on {node!r}: with {nodes} nodes, GPUs can be on {wanted}")
        check_machine()
        ensure_programs(self.progress)
        _ = self.binaries
        with cluster_lock(self.paths):
            record = self._record()
            if record is None or not self._sound(record):
                self._clear_wreck()
                record = self._start_control_plane()
            self._revive(record)
            missing = [node for node in wanted if node not in record.nodes]
            if missing:
                self._start_nodes(record, missing)
            for node, count in (gpus or {}).items():
                if record.gpus.get(node, 0) != count:
                    self._advertise_gpus(record, node, count)

    def stop(self) -> None:
        """Removes everything of the cluster, also when half of it is dead or its records are lost."""
        check_machine()
        with cluster_lock(self.paths), self.progress.phase("remove the cluster"):
            teardown.remove_everything(self.names)

    def status(self) -> Status:
        record = self._record()
        remains = teardown.remains(self.names)
        if record is None:
            return Status("broken" if remains else "absent", remains=remains)
        alive = {f"{daemon.directory.name}/{daemon.name}": daemon.alive() for daemon in self._daemons(record)}
        ready = self._control_plane(record).api_ready()
        state = "running" if ready and all(alive.values()) else "broken"
        conditions = self._node_conditions() if ready else {}
        nodes = {name: "down" if name in record.down else conditions.get(name, "NotReady") for name in record.nodes}
        return Status(state, alive, nodes, dict(record.gpus), remains)

    # ---- use

    def environment(self) -> dict[str, str]:
        """What kubectl, helm and clients need, with their caches inside the cluster's directory."""
        path = ":".join([*(str(directory) for directory in self.binaries.directories()), os.environ.get("PATH", "")])
        scratch = self.paths.state / "client-cache"
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": path,
            "KUBECACHEDIR": str(scratch / "kubectl"),
            "HELM_CACHE_HOME": str(scratch / "helm"),
        }

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Runs kubectl as the cluster's admin."""
        command = [str(self.binaries["kubectl"]), *arguments]
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, **self.environment()},
        )
        if check and done.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def load_image(self, archive: Path) -> dict[str, float]:
        """Imports the images of an archive into every node that is up, all at once. Node -> seconds."""
        if not archive.is_file():
            raise ClusterError(f"there is no image archive {archive}: build the images first")
        record = self._needed_record()
        nodes = [self._node(record, name) for name in record.nodes if name not in record.down]
        with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
            seconds = pool.map(lambda node: node.containerd.import_image(archive.resolve()), nodes)
            return {node.name: took for node, took in zip(nodes, seconds, strict=True)}

    def set_gpus(self, node: str, count: int) -> None:
        """Advertises `count` GPUs on a node; the scheduler then treats them as scarce."""
        record = self._needed_record()
        self._known(record, node)
        self._advertise_gpus(record, node, count)

    @property
    def audit_log(self) -> Path:
        """What pods' service accounts asked of the API server, one JSON object a line."""
        return self._control_plane(self._needed_record()).audit_log

    # ---- faults, for tests

    def stop_apiserver(self) -> None:
        """An outage of the API server, at once. Everything else goes on."""
        record = self._needed_record()
        self._mark(record, _API, down=True)
        self._control_plane(record).apiserver().stop(grace_s=0)

    def start_apiserver(self) -> None:
        record = self._needed_record()
        plane = self._control_plane(record)
        apiserver = plane.apiserver()
        if not apiserver.alive():
            apiserver.start()
        apiserver.wait(plane.api_ready, timeout_s=60)
        self._mark(record, _API, down=False)

    def kill_node(self, node: str) -> None:
        """The machine is gone: its cable is pulled and everything on it killed. Kubernetes finds out by itself."""
        record = self._needed_record()
        self._known(record, node)
        self._mark(record, node, down=True)
        network.unplug(self.names, node)
        self._node(record, node).cgroup.kill()
        survivors = [name for name in record.nodes if name not in record.down]
        if survivors:
            network.route_services(self.names, Addresses(record.octet), survivors[0])

    def restart_node(self, node: str) -> None:
        """The machine is back, with its disk, and without what ran on it."""
        record = self._needed_record()
        self._known(record, node)
        network.replug(self.names, node)
        self._run_node(self._node(record, node))
        self._mark(record, node, down=False)
        self._await_nodes([node])
        if record.gpus.get(node):
            self._advertise_gpus(record, node, record.gpus[node])

    # ---- how

    def _start_control_plane(self) -> Record:
        with self.progress.phase("network and certificates"):
            with machine_lock():
                sysctls.prepare()
                Cgroup(self.names.cgroup).create()
                Cgroup(self.names.cgroup).weigh(os.cpu_count() or 1)
                addresses = choose_addresses(self.names.cluster, network.host_routes())
                network.create_bridge(self.names, addresses)
            network.add_control_plane(self.names, addresses)
            self.paths.state.mkdir(parents=True, mode=0o700, exist_ok=True)
            record = Record(addresses.octet)
            record.save(self.paths.record)
            plane = self._control_plane(record)
            plane.issue_certificates(Authority(self.paths.pki))
            plane.write_audit_policy()
        with self.progress.phase("etcd and API server"):
            etcd, apiserver = plane.etcd(), plane.apiserver()
            etcd.start()
            etcd.wait(plane.etcd_healthy, timeout_s=30)
            apiserver.start()
            apiserver.wait(plane.api_live, timeout_s=90)
            plane.controller_manager().start()
            plane.scheduler().start()
            apiserver.wait(plane.api_ready, timeout_s=90)
        return record

    def _start_nodes(self, record: Record, names: list[str]) -> None:
        with self.progress.phase(f"{len(names)} more node{'s'[: len(names) > 1]}" if record.nodes else "nodes Ready"):
            authority = Authority(self.paths.pki)
            plugins = cni_bin_dir()
            assert plugins is not None  # ensure_programs saw to it
            for name in names:
                node = self._node(record, name)
                network.add_node(self.names, node.addresses, name, record.nodes)
                if not record.nodes:
                    network.route_services(self.names, node.addresses, name)
                record.nodes.append(name)
                record.save(self.paths.record)
                node.write_config(plugins)
                node.issue_certificates(authority)
            with ThreadPoolExecutor(max_workers=4) as pool:
                list(pool.map(lambda name: self._run_node(self._node(record, name)), names))
            self._await_nodes(names)
            self.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s", timeout_s=70)

    def _run_node(self, node: Node) -> None:
        """kubelet only after containerd's socket answers: it gives up otherwise."""
        runtime = node.runtime()
        runtime.start()
        runtime.wait(node.containerd.answers, timeout_s=30)
        node.containerd.import_image(self._pause_archive())
        node.kubelet().start()
        node.proxy().start()

    def _await_nodes(self, names: list[str]) -> None:
        for name in names:
            for condition in ("create", "condition=Ready"):
                self.kubectl("wait", f"--for={condition}", f"node/{name}", "--timeout=90s", timeout_s=100)

    def _revive(self, record: Record) -> None:
        """Brings back what was taken down on purpose."""
        for name in list(record.down):
            with self.progress.phase(f"bring {name} back"):
                if name == _API:
                    self.start_apiserver()
                else:
                    self.restart_node(name)

    def _clear_wreck(self) -> None:
        if teardown.remains(self.names):
            with self.progress.phase("clear an earlier run away"):
                teardown.remove_everything(self.names)

    def _sound(self, record: Record) -> bool:
        return all(daemon.alive() for daemon in self._daemons(record))

    def _daemons(self, record: Record) -> list[Daemon]:
        """All programs that should run now."""
        daemons = self._control_plane(record).daemons()
        for name in record.nodes:
            if name not in record.down:
                daemons += self._node(record, name).daemons()
        return [daemon for daemon in daemons if daemon.name not in record.down]

    def _advertise_gpus(self, record: Record, node: str, count: int) -> None:
        # kubelet would copy capacity to allocatable, but only at its next report.
        patch = [
            {"op": "add", "path": f"/status/{of}/nvidia.com~1gpu", "value": str(count)}
            for of in ("capacity", "allocatable")
        ]
        self.kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(patch))
        record.gpus[node] = count
        record.save(self.paths.record)

    def _node_conditions(self) -> dict[str, str]:
        answer = json.loads(self.kubectl("get", "nodes", "-o", "json").stdout)
        return {item["metadata"]["name"]: _readiness(item["status"].get("conditions", [])) for item in answer["items"]}

    def _pause_archive(self) -> Path:
        archive = cache_dir() / "images" / "pause.tar"
        if not archive.exists():
            scratch = archive.with_suffix(f".{os.getpid()}")
            files = {"/catatonit": Path("/usr/bin/catatonit")}
            write_image(scratch, f"docker.io/{PAUSE_IMAGE}", files, ["/catatonit", "-P"])
            scratch.replace(archive)
        return archive

    def _mark(self, record: Record, name: str, *, down: bool) -> None:
        record.down = [other for other in record.down if other != name] + ([name] if down else [])
        record.save(self.paths.record)

    def _known(self, record: Record, node: str) -> None:
        node_number(node)
        if node not in record.nodes:
            raise ClusterError(f"{self.names.cluster} has no {node}, only {', '.join(record.nodes) or 'no nodes'}")

    def _record(self) -> Record | None:
        return Record.load(self.paths.record)

    def _needed_record(self) -> Record:
        record = self._record()
        if record is None:
            raise ClusterError(
                f"there is no cluster {self.names.cluster!r}: start it with "
                f"`python -m topmast_cluster --name {self.names.cluster} start`"
            )
        return record

    def _control_plane(self, record: Record) -> ControlPlane:
        return ControlPlane(self.names, Addresses(record.octet), self.paths, self.binaries)

    def _node(self, record: Record, name: str) -> Node:
        return Node(name, self.names, Addresses(record.octet), self.paths, self.binaries)


def _readiness(conditions: list[dict[str, str]]) -> str:
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return "Ready" if ready else "NotReady"
