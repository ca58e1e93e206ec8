"""One node: a network namespace with containerd, kubelet and kube-proxy in it.

Several on one machine differ in names, addresses, directories and control groups, and in nothing else.
"""

from dataclasses import dataclass
from pathlib import Path

from topmast_cluster.addresses import Addresses
from topmast_cluster.binaries import Binaries
from topmast_cluster.cgroups import Cgroup
from topmast_cluster.containerd import Containerd
from topmast_cluster.daemons import Daemon, answers_ok
from topmast_cluster.kubeconfig import write_kubeconfig
from topmast_cluster.kubelet import kubelet_flags, write_kubelet_config, write_proxy_config
from topmast_cluster.names import Names
from topmast_cluster.paths import ClusterPaths
from topmast_cluster.pki import Authority


@dataclass(frozen=True)
class Node:
    name: str
    names: Names
    addresses: Addresses
    paths: ClusterPaths
    binaries: Binaries

    @property
    def directory(self) -> Path:
        return self.paths.node(self.name)

    @property
    def cgroup(self) -> Cgroup:
        return Cgroup(self.names.cgroup).below(self.name)

    @property
    def containerd(self) -> Containerd:
        return Containerd(self.directory)

    @property
    def address(self) -> str:
        return self.addresses.node(self.name)

    def issue_certificates(self, authority: Authority) -> None:
        authority.server(f"{self.name}-server", f"system:node:{self.name}", [self.name, self.address])
        kubelet = authority.client(f"{self.name}-kubelet", f"system:node:{self.name}", ["system:nodes"])
        proxy = authority.client(f"{self.name}-proxy", "system:kube-proxy")
        for file, user, client in (("kubelet", f"system:node:{self.name}", kubelet), ("proxy", "kube-proxy", proxy)):
            write_kubeconfig(
                self.directory / f"{file}.kubeconfig",
                cluster=self.names.cluster,
                server=self.addresses.api_url,
                ca=authority.ca,
                user=user,
                client=client,
            )

    def write_config(self, cni_bin_dir: Path) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.containerd.write_config(self.names, self.addresses.pod_subnet(self.name), cni_bin_dir)
        write_kubelet_config(
            self.directory / "kubelet.json",
            names=self.names,
            node=self.name,
            pki=self.paths.pki,
            containerd_socket=self.containerd.socket,
        )
        write_proxy_config(
            self.directory / "kube-proxy.json",
            addresses=self.addresses,
            node=self.name,
            kubeconfig=self.directory / "proxy.kubeconfig",
        )

    def runtime(self) -> Daemon:
        return self._daemon("containerd", ["containerd", "--config", self.containerd.config])

    def kubelet(self) -> Daemon:
        flags = kubelet_flags(
            config=self.directory / "kubelet.json",
            kubeconfig=self.directory / "kubelet.kubeconfig",
            node=self.name,
            address=self.address,
            root=self.directory / "kubelet",
        )
        return self._daemon("kubelet", [self.binaries["kubelet"], *flags])

    def proxy(self) -> Daemon:
        config = self.directory / "kube-proxy.json"
        return self._daemon("kube-proxy", [self.binaries["kube-proxy"], f"--config={config}"])

    def daemons(self) -> list[Daemon]:
        return [self.runtime(), self.kubelet(), self.proxy()]

    def proxy_healthy(self) -> bool:
        """Its rules are in place."""
        return answers_ok(f"http://{self.address}:10256/healthz")

    def _daemon(self, name: str, command: list[str | Path]) -> Daemon:
        return Daemon(
            name=name,
            directory=self.directory,
            netns=self.names.netns(self.name),
            cgroup=self.cgroup.below("system"),
            command=command,
        )
