"""A node's kubelet and kube-proxy: their configuration files and flags."""

import json
from pathlib import Path

from topmast_cluster.addresses import Addresses
from topmast_cluster.names import Names


def write_kubelet_config(path: Path, *, names: Names, node: str, pki: Path, containerd_socket: Path) -> None:
    """KubeletConfiguration as JSON. Everything that has a path lies in the node's directory."""
    directory = path.parent
    resolv = directory / "resolv.conf"
    resolv.write_text("# Nodes of this cluster have no way to a name server outside.\n")
    config = {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki / f"{node}-server.crt"),
        "tlsPrivateKeyFile": str(pki / f"{node}-server.key"),
        "containerRuntimeEndpoint": f"unix://{containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"{names.cgroup}/{node}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDomain": "cluster.local",
        # There is no DNS in this cluster. A pod's own loopback refuses a lookup at once; an empty list would
        # make a warning event for every pod, and the host's name server, out of reach, a wait of 40 s.
        "clusterDNS": ["127.0.0.1"],
        "resolvConf": str(resolv),
        "podLogsDir": str(directory / "pod-logs"),
        "volumePluginDir": str(directory / "volume-plugins"),
        "makeIPTablesUtilChains": False,  # kube-proxy runs on nftables
        # Images are imported, not pulled: a collected one would never come back.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "serializeImagePulls": False,
        "eventRecordQPS": 0,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        # Idle loops, stretched: two cores are shared with model servers.
        "volumeStatsAggPeriod": "5m",
        "runtimeRequestTimeout": "2m",
    }
    path.write_text(json.dumps(config, indent=1))


def kubelet_flags(*, config: Path, kubeconfig: Path, node: str, address: str, root: Path) -> list[str]:
    return [
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node}",
        f"--node-ip={address}",
        f"--root-dir={root}",
        f"--cert-dir={root / 'pki'}",
    ]


def write_proxy_config(path: Path, *, addresses: Addresses, node: str, kubeconfig: Path) -> None:
    config = {
        "kind": "KubeProxyConfiguration",
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 50, "burst": 100},
        "hostnameOverride": node,
        "clusterCIDR": addresses.pods,  # what comes from elsewhere, the host for instance, is masqueraded
        "detectLocalMode": "ClusterCIDR",
        "oomScoreAdj": 0,
        # Zero: leave the kernel's limits alone; a network namespace may not change them.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
            "udpTimeout": "0s",
            "udpStreamTimeout": "0s",
        },
        "nftables": {"minSyncPeriod": "0.2s", "syncPeriod": "60s"},
        "bindAddress": addresses.node(node),
        "metricsBindAddress": f"{addresses.node(node)}:10249",
        "healthzBindAddress": f"{addresses.node(node)}:10256",
    }
    path.write_text(json.dumps(config, indent=1))
