"""Where `make up` goes: the embedded cluster, or the user's own when KUBECONFIG names one.

Holds how to run kubectl and helm there, and how this machine reaches the gateway. Starts no cluster.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topmast_cluster.cluster import Cluster
from topmast_cluster.errors import ClusterError, MachineError

SYSTEM_NAMESPACE = "topmast-system"
GATEWAY_SERVICE = "topmast-gateway"
MODEL_NAMESPACE = "default"


@dataclass(frozen=True)
class Target:
    """kubectl and helm of one cluster. `registry` is None where images are loaded into the nodes instead."""

    environment: Mapping[str, str]
    kubectl_program: str
    helm_program: str
    registry: str | None

    @classmethod
    def embedded(cls, cluster: Cluster) -> "Target":
        programs = cluster.binaries
        return cls(cluster.environment(), str(programs["kubectl"]), str(programs["helm"]), None)

    @classmethod
    def own(cls, registry: str | None) -> "Target":
        """The user's cluster; what it needs is checked before anything is built."""
        kubeconfig = Path(os.environ["KUBECONFIG"].split(os.pathsep)[0]).expanduser()
        if not kubeconfig.is_file():
            raise MachineError(
                f"KUBECONFIG={kubeconfig} is no file: set it to your cluster's kubeconfig, "
                "or unset it to start an embedded cluster"
            )
        if not registry:
            raise MachineError(
                "KUBECONFIG names your own cluster, which needs a registry to pull the images from: set "
                "IMAGE_REGISTRY=registry.example.org/team, or unset KUBECONFIG to start an embedded cluster"
            )
        kubectl, helm = (_program(name) for name in ("kubectl", "helm"))
        return cls({"KUBECONFIG": os.environ["KUBECONFIG"]}, kubectl, helm, registry.rstrip("/"))

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        return self._run(self.kubectl_program, arguments, stdin=stdin, check=check, timeout_s=timeout_s)

    def helm(self, *arguments: str, check: bool = True, timeout_s: float = 300) -> "subprocess.CompletedProcess[str]":
        return self._run(self.helm_program, arguments, stdin=None, check=check, timeout_s=timeout_s)

    def get(self, *arguments: str) -> dict[str, Any] | None:
        """One object or list as JSON; None when it does not exist."""
        done = self.kubectl("get", *arguments, "-o", "json", check=False)
        if done.returncode != 0:
            if "NotFound" in done.stderr or "not found" in done.stderr:
                return None
            raise ClusterError(f"kubectl get {' '.join(arguments)} failed: {done.stderr.strip()}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    @contextmanager
    def gateway_url(self) -> Iterator[str]:
        """In the embedded cluster this machine reaches Services directly; elsewhere through a port-forward."""
        if self.registry is None:
            service = self.get("service", GATEWAY_SERVICE, "-n", SYSTEM_NAMESPACE)
            if service is None:
                raise ClusterError(f"the Service {GATEWAY_SERVICE} is gone: run `make up` again")
            yield f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"
            return
        command = ["port-forward", "-n", SYSTEM_NAMESPACE, f"service/{GATEWAY_SERVICE}", ":80"]
        process = subprocess.Popen(
            [self.kubectl_program, *command],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            match = re.search(r"127\.0\.0\.1:(\d+)", first)
            if match is None:
                raise ClusterError(f"kubectl {' '.join(command)} failed: {first.strip() or 'it ended at once'}")
            yield f"http://127.0.0.1:{match[1]}"
        finally:
            process.terminate()
            process.wait()

    def _run(
        self, program: str, arguments: tuple[str, ...], *, stdin: str | None, check: bool, timeout_s: float
    ) -> "subprocess.CompletedProcess[str]":
        called = f"{Path(program).name} {' '.join(arguments[:3])}"
        try:
            done = subprocess.run(
                [program, *arguments],
                input=stdin,
                stdin=None if stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env={**os.environ, **self.environment},
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(f"{called} gave no answer within {timeout_s:.0f} s: is the cluster reachable?") from None
        if check and done.returncode != 0:
            raise ClusterError(f"{called} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done


def wants_own_cluster() -> bool:
    """KUBECONFIG is set, and not to the embedded cluster's own file (which `make up` tells people to export)."""
    named = os.environ.get("KUBECONFIG")
    return bool(named) and Path(str(named)).expanduser().resolve() != Cluster().kubeconfig.resolve()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MachineError(f"{name} is needed to use your own cluster and is not on the PATH: install it and try again")
    return found
