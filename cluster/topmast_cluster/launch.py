"""Brings the parts of one cluster to life, in the order in which they need each other.

Knows a cluster by its record; writes the record as it goes, so that a crash half-way leaves a truthful one.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from topmast_cluster import network, sysctls
from topmast_cluster.addresses import Addresses, choose_addresses
from topmast_cluster.archive import write_image
from topmast_cluster.binaries import Binaries
from topmast_cluster.cgroups import Cgroup
from topmast_cluster.client import Client
from topmast_cluster.containerd import PAUSE_IMAGE
from topmast_cluster.controlplane import ControlPlane
from topmast_cluster.daemons import Daemon
from topmast_cluster.errors import ClusterError
from topmast_cluster.locks import machine_lock
from topmast_cluster.machine import cni_bin_dir
from topmast_cluster.names import Names
from topmast_cluster.node import Node
from topmast_cluster.paths import ClusterPaths, cache_dir
from topmast_cluster.pki import Authority
from topmast_cluster.progress import Progress
from topmast_cluster.record import API_SERVER, Record


def lay_foundation(names: Names, paths: ClusterPaths) -> Record:
    """The cluster's control group, its namespace with the bridge, and its record: from here on it can be removed."""
    with machine_lock():
        sysctls.prepare()
        Cgroup(names.cgroup).create()
        Cgroup(names.cgroup).weigh(os.cpu_count() or 1)
        addresses = choose_addresses(names.cluster, network.host_routes())
        network.add_control_plane(names, addresses)
    paths.state.mkdir(parents=True, mode=0o700, exist_ok=True)
    record = Record(addresses.octet)
    record.save(paths.record)
    return record


@dataclass(frozen=True)
class Launch:
    names: Names
    paths: ClusterPaths
    binaries: Binaries
    record: Record
    progress: Progress

    @property
    def addresses(self) -> Addresses:
        return Addresses(self.record.octet)

    @property
    def client(self) -> Client:
        return Client(self.paths, self.binaries, self.addresses)

    @property
    def control_plane(self) -> ControlPlane:
        return ControlPlane(self.names, self.addresses, self.paths, self.binaries)

    def node(self, name: str) -> Node:
        return Node(name, self.names, self.addresses, self.paths, self.binaries)

    def nodes_up(self) -> list[Node]:
        return [self.node(name) for name in self.record.nodes if name not in self.record.down]

    def daemons(self) -> list[Daemon]:
        """All programs that should run now."""
        daemons = self.control_plane.daemons()
        for node in self.nodes_up():
            daemons += node.daemons()
        return [daemon for daemon in daemons if daemon.name not in self.record.down]

    def start_control_plane(self) -> None:
        plane = self.control_plane
        with self.progress.phase("etcd and API server"):
            plane.issue_certificates(Authority(self.paths.pki))
            plane.write_audit_policy()
            etcd = plane.etcd()
            etcd.start()
            etcd.wait(plane.etcd_healthy, timeout_s=30)
            plane.apiserver().start()
            plane.apiserver().wait(plane.api_live, timeout_s=90)
            plane.controller_manager().start()
            plane.scheduler().start()
            plane.apiserver().wait(plane.api_ready, timeout_s=90)

    def start_apiserver(self) -> None:
        apiserver = self.control_plane.apiserver()
        if not apiserver.alive():
            apiserver.start()
        apiserver.wait(self.control_plane.api_ready, timeout_s=60)
        self.mark(API_SERVER, down=False)

    def add_nodes(self, names: Sequence[str]) -> None:
        """New nodes, all at once, up to Ready and with the images that the other nodes have."""
        with self.progress.phase(f"{', '.join(names)} Ready"):
            authority = Authority(self.paths.pki)
            for name in names:
                self._prepare_node(self.node(name), authority)
            with ThreadPoolExecutor(max_workers=4) as pool:
                list(pool.map(self._run_node, map(self.node, names)))
            self._await_nodes(names)
            self.client.wait("serviceaccount/default", "create")  # no pod can be made before it is there
        for archive in map(Path, self.record.images):
            if archive.is_file():
                self.load_image(archive, names)

    def restart_node(self, name: str) -> None:
        """As after a power failure: its disk is there, nothing runs."""
        network.replug(self.names, name)
        back = time.time()
        self._run_node(self.node(name))
        self.mark(name, down=False)
        self._await_nodes([name], since=back)
        if self.record.gpus.get(name):
            self.client.advertise_gpus(name, self.record.gpus[name])

    def load_image(self, archive: Path, nodes: Sequence[str]) -> dict[str, float]:
        """Node -> seconds that the import took, all nodes at once."""
        with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
            seconds = pool.map(lambda name: self.node(name).containerd.import_image(archive), nodes)
            return dict(zip(nodes, seconds, strict=True))

    def mark(self, name: str, *, down: bool) -> None:
        """Notes that something was taken down on purpose, or is back."""
        self.record.down = [other for other in self.record.down if other != name] + ([name] if down else [])
        self.record.save(self.paths.record)

    def _prepare_node(self, node: Node, authority: Authority) -> None:
        plugins = cni_bin_dir()
        if plugins is None:
            raise ClusterError("the CNI plugins are gone: install the package containernetworking-plugins")
        network.add_node(self.names, self.addresses, node.name, self.record.nodes)
        if not self.record.nodes:
            network.route_services(self.names, self.addresses, node.name)
        self.record.nodes.append(node.name)
        self.record.save(self.paths.record)
        node.write_config(plugins)
        node.issue_certificates(authority)

    def _run_node(self, node: Node) -> None:
        """kubelet only after containerd's socket answers: it gives up otherwise."""
        runtime = node.runtime()
        runtime.start()
        runtime.wait(node.containerd.answers, timeout_s=30)
        node.containerd.import_image(_pause_archive())
        node.kubelet().start()
        node.proxy().start()

    def _await_nodes(self, names: Sequence[str], since: float = 0.0) -> None:
        """Ready, and heard of after `since`: a node that was away for a moment still counts as Ready from before."""
        for node in map(self.node, names):
            node.kubelet().wait(partial(self.client.has_node, node.name), timeout_s=60)
            if since:
                node.kubelet().wait(partial(self.client.heard_of, node.name, since), timeout_s=60)
            self.client.wait(f"node/{node.name}", "condition=Ready")
            node.proxy().wait(node.proxy_healthy, timeout_s=30)


def _pause_archive() -> Path:
    """The image of every pod's sandbox: one static program that does nothing but reap."""
    archive = cache_dir() / "images" / "pause.tar"
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        scratch = archive.with_suffix(f".{os.getpid()}")
        files = {"/catatonit": Path("/usr/bin/catatonit")}
        write_image(scratch, f"docker.io/{PAUSE_IMAGE}", files, ["/catatonit", "-P"])
        scratch.replace(archive)
    return archive
