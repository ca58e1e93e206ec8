"""etcd, API server, controller manager and scheduler: what they are started with, and when they count as healthy.

All in one network namespace of their own, so that ports never collide between clusters. Flags are chosen for a
throw-away cluster that shares two cores with model servers: no fsync, no leader election, few idle loops.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from topmast_cluster.addresses import Addresses
from topmast_cluster.binaries import Binaries
from topmast_cluster.cgroups import Cgroup
from topmast_cluster.daemons import Daemon, answers_ok
from topmast_cluster.kubeconfig import write_kubeconfig
from topmast_cluster.names import Names
from topmast_cluster.paths import ClusterPaths
from topmast_cluster.pki import Authority, KeyPair

# Off: what needs a cloud, what issues certificates to joining nodes, and loops over things that we never make.
_CONTROLLERS_OFF = (
    "bootstrap-signer-controller",
    "token-cleaner-controller",
    "certificatesigningrequest-signing-controller",
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "node-ipam-controller",
    "node-route-controller",
    "service-lb-controller",
    "cloud-node-lifecycle-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
    "ephemeral-volume-controller",
    "endpointslice-mirroring-controller",
    "legacy-serviceaccount-token-cleaner-controller",
    "storage-version-migrator-controller",
    "resourceclaim-controller",
    "validatingadmissionpolicy-status-controller",
)

# Less garbage collection than by Go's defaults, on machines whose memory is idle and whose processor is not.
_SPARE_THE_PROCESSOR: Final = {"GOGC": "400", "GOMEMLIMIT": "1GiB"}

# What the service accounts of installed programs asked for; Kubernetes' own controllers would drown it.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True)
class ControlPlane:
    names: Names
    addresses: Addresses
    paths: ClusterPaths
    binaries: Binaries

    def issue_certificates(self, authority: Authority) -> None:
        """Certificates and kubeconfigs of everything but the nodes."""
        at = self.addresses
        hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1"]
        authority.server("apiserver", "kube-apiserver", [*hosts, at.control_plane, at.first_service])
        authority.client("apiserver-kubelet", "kube-apiserver", ["system:masters"])
        authority.signing_pair("service-accounts")
        self._kubeconfig(authority, self.paths.kubeconfig, "admin", "topmast-admin", ["system:masters"])
        for component in ("kube-controller-manager", "kube-scheduler"):
            self._kubeconfig(authority, self._own_kubeconfig(component), component, f"system:{component}", [])

    @property
    def audit_log(self) -> Path:
        """One JSON object a line: what pods' service accounts asked of the API server."""
        return self.paths.control_plane / "audit.log"

    def write_audit_policy(self) -> None:
        self._audit_policy.parent.mkdir(parents=True, exist_ok=True)
        self._audit_policy.write_text(json.dumps(_AUDIT_POLICY))

    @property
    def _audit_policy(self) -> Path:
        return self.paths.control_plane / "audit-policy.json"

    def etcd(self) -> Daemon:
        flags = [
            "--name=etcd",
            f"--data-dir={self.paths.control_plane / 'etcd'}",
            "--listen-client-urls=http://127.0.0.1:2379",  # loopback of its own namespace: nobody else can reach it
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=etcd=http://127.0.0.1:2380",
            f"--listen-metrics-urls=http://{self.addresses.control_plane}:2381",
            "--unsafe-no-fsync",  # a machine that crashes loses the cluster; it is throw-away
            "--heartbeat-interval=100",
            "--election-timeout=500",  # alone, it waits for this long as it starts
            "--log-level=warn",
        ]
        return self._daemon("etcd", flags)

    def apiserver(self) -> Daemon:
        pki, at = self.paths.pki, self.addresses
        flags = [
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={at.control_plane}",
            f"--bind-address={at.control_plane}",
            "--secure-port=6443",
            f"--service-cluster-ip-range={at.services}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--tls-cert-file={pki / 'apiserver.crt'}",
            f"--tls-private-key-file={pki / 'apiserver.key'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
            f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
            "--kubelet-preferred-address-types=InternalIP",  # else logs and exec look the node's name up in DNS
            f"--service-account-key-file={pki / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--enable-aggregator-routing=true",  # straight to the pods: no kube-proxy in this namespace
            "--allow-privileged=true",
            "--profiling=false",
            "--event-ttl=1h",
            f"--audit-policy-file={self._audit_policy}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-maxsize=100",
            "--audit-log-maxbackup=1",
        ]
        return self._daemon("kube-apiserver", flags)

    def controller_manager(self) -> Daemon:
        kubeconfig, pki = self._own_kubeconfig("kube-controller-manager"), self.paths.pki
        flags = [
            *self._delegated(kubeconfig),
            "--controllers=" + ",".join(["*", *(f"-{name}" for name in _CONTROLLERS_OFF)]),
            f"--service-account-private-key-file={pki / 'service-accounts.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
            "--use-service-account-credentials=true",
            "--allocate-node-cidrs=false",
            "--kube-api-qps=200",  # the default of 20 lets mass changes crawl
            "--kube-api-burst=400",
        ]
        return self._daemon("kube-controller-manager", flags)

    def scheduler(self) -> Daemon:
        kubeconfig = self._own_kubeconfig("kube-scheduler")
        return self._daemon("kube-scheduler", [*self._delegated(kubeconfig), "--kube-api-qps=200"])

    def daemons(self) -> list[Daemon]:
        return [self.etcd(), self.apiserver(), self.controller_manager(), self.scheduler()]

    def etcd_healthy(self) -> bool:
        return answers_ok(f"http://{self.addresses.control_plane}:2381/health")

    def api_ready(self) -> bool:
        return answers_ok(f"{self.addresses.api_url}/readyz", self.paths.pki / "ca.crt")

    def api_live(self) -> bool:
        """Answers requests, though not every start-up hook has run yet."""
        return answers_ok(f"{self.addresses.api_url}/livez?exclude=etcd", self.paths.pki / "ca.crt")

    def _delegated(self, kubeconfig: Path) -> list[str]:
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={self.addresses.control_plane}",
            f"--cert-dir={kubeconfig.parent}",
            "--leader-elect=false",  # there is one of each
            "--profiling=false",
        ]

    def _daemon(self, program: str, flags: list[str]) -> Daemon:
        return Daemon(
            name=program,
            directory=self.paths.control_plane,
            netns=self.names.control_plane_netns,
            cgroup=Cgroup(self.names.cgroup).below("control-plane"),
            command=[self.binaries[program], *flags],
            environment=_SPARE_THE_PROCESSOR,
        )

    def _own_kubeconfig(self, component: str) -> Path:
        return self.paths.control_plane / component / "kubeconfig"

    def _kubeconfig(self, authority: Authority, path: Path, file: str, user: str, groups: list[str]) -> None:
        client: KeyPair = authority.client(file, user, groups)
        write_kubeconfig(
            path,
            cluster=self.names.cluster,
            server=self.addresses.api_url,
            ca=authority.ca,
            user=user,
            client=client,
        )
