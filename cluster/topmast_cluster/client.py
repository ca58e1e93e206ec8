"""Runs kubectl against one cluster, and says what other clients need in their environment."""

import json
import os
import subprocess
from dataclasses import dataclass
from datetime import datetime

from topmast_cluster.addresses import Addresses
from topmast_cluster.binaries import Binaries
from topmast_cluster.errors import ClusterError
from topmast_cluster.paths import ClusterPaths


@dataclass(frozen=True)
class Client:
    paths: ClusterPaths
    binaries: Binaries
    addresses: Addresses

    def environment(self) -> dict[str, str]:
        """What kubectl, helm and libraries need; their caches lie inside the cluster's directory and end with it."""
        path = [*(str(directory) for directory in self.binaries.directories()), os.environ.get("PATH", "")]
        scratch = self.paths.state / "client-cache"
        return {
            "KUBECONFIG": str(self.paths.kubeconfig),
            "PATH": ":".join(path),
            "KUBECACHEDIR": str(scratch / "kubectl"),
            "HELM_CACHE_HOME": str(scratch / "helm"),
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), str(self.addresses.whole)])),
        }

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """As the cluster's admin. With `check`, a failure raises what kubectl said."""
        said = f"kubectl {' '.join(arguments)}"
        try:
            done = subprocess.run(
                [str(self.binaries["kubectl"]), *arguments],
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env={**os.environ, **self.environment()},
            )
        except subprocess.TimeoutExpired as late:
            raise ClusterError(f"{said} gave no answer within {timeout_s:.0f} s") from late
        if check and done.returncode != 0:
            raise ClusterError(f"{said} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done

    def wait(self, what: str, condition: str, timeout_s: int = 90) -> None:
        self.kubectl("wait", f"--for={condition}", what, f"--timeout={timeout_s}s", timeout_s=timeout_s + 10)

    def node_states(self) -> dict[str, str]:
        """Node -> Ready or NotReady."""
        answer = json.loads(self.kubectl("get", "nodes", "-o", "json").stdout)
        return {item["metadata"]["name"]: _readiness(item["status"].get("conditions", [])) for item in answer["items"]}

    def has_node(self, node: str) -> bool:
        return self.kubectl("get", "node", node, check=False).returncode == 0

    def heard_of(self, node: str, since: float) -> bool:
        """Has the node's kubelet renewed its lease after `since`, in seconds of the epoch? A young node may have
        no lease yet: the kubelet's first try comes before its node exists, the next one seconds later."""
        path = ("-o", "jsonpath={.spec.renewTime}", "--ignore-not-found")
        renewed = self.kubectl("-n", "kube-node-lease", "get", "lease", node, *path).stdout
        return bool(renewed) and datetime.fromisoformat(renewed).timestamp() >= since

    def advertise_gpus(self, node: str, count: int) -> None:
        """The kubelet keeps what is written here; by itself it would fill allocatable only at its next report."""
        patch = [
            {"op": "add", "path": f"/status/{of}/nvidia.com~1gpu", "value": str(count)}
            for of in ("capacity", "allocatable")
        ]
        self.kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(patch))


def _readiness(conditions: list[dict[str, str]]) -> str:
    ready = any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
    return "Ready" if ready else "NotReady"
