"""What an operator test has in hand: a real control plane, played nodes, and operator processes with minimal rights."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from operatorlab.playkubelet import PlayKubelet
from operatorlab.reader import Reader, collection
from operatorlab.rights import CLUSTER, LEASE_NAMESPACE, WATCHED_NAMESPACE

Object = dict[str, Any]
Found = TypeVar("Found")
SYSTEM = "topmast-system"
IMAGE = "topmast/server:test"


@dataclass
class Process:
    """An operator process and where its log is."""

    popen: subprocess.Popen[bytes]
    port: int
    log: Path
    may_be_refused: bool = False  # an API server that has just started knows no roles for a moment

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wake(self, path: str, token: str) -> tuple[int, Object]:
        """A gateway's call, with its answer."""
        headers = {"Authorization": f"Bearer {token}"}
        call = urllib.request.Request(f"http://127.0.0.1:{self.port}/wake/{path}", b"", headers, method="POST")
        try:
            with urllib.request.urlopen(call, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def metric(self, line: str) -> float:
        """The value of one sample, named as it is printed."""
        for text in self.get("/metrics")[1].splitlines():
            if text.startswith(line + " "):
                return float(text.rsplit(" ", 1)[1])
        raise AssertionError(f"no metric {line}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(timeout=60)


class World:
    """The cluster as its user sees it; every wait has an end and says what it saw last."""

    def __init__(self, cluster: Any, kubelet: PlayKubelet, directory: Path) -> None:
        self.cluster = cluster
        self.kubelet = kubelet
        self.reader = Reader(Path(cluster.kubeconfig))
        self.directory = directory
        self.namespace = "default"

    def kubectl(self, *arguments: str, stdin: Object | str | None = None, check: bool = True) -> str:
        """Standard output of kubectl; with check=False the error text too."""
        given = stdin if isinstance(stdin, str | None) else json.dumps(stdin)
        where = ["-n", self.namespace] if stdin is None and "-n" not in arguments else []
        done = subprocess.run(
            [str(self.cluster.binaries["kubectl"]), *where, *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)},
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    def apply(self, body: Object) -> None:
        self.kubectl("apply", "-f", "-", stdin=body)

    def model(self, name: str, **spec: Any) -> Object:
        """A manifest; `spec` is merged over the shortest valid one."""
        return {
            "apiVersion": "topmast.dev/v1alpha1",
            "kind": "LLMDeployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"model": {"source": "image:///models/smollm2.gguf"}, **spec},
        }

    def get(self, kind: str, name: str) -> Object | None:
        return self.reader.get(f"{collection(kind, self.namespace)}/{name}")

    def list(self, kind: str, model: str) -> list[Object]:
        found = self.reader.get(self._of_model(kind, model))
        return list(found["items"]) if found else []

    def history(self, kind: str, model: str, since: str) -> Iterator[Object]:
        """What became of a model's objects after `version`, however late one asks: `type` and `object` each time."""
        return self.reader.watch(self._of_model(kind, model), since)

    def version(self, kind: str, model: str) -> str:
        """Where a history can begin: now."""
        found = self.reader.get(self._of_model(kind, model))
        assert found is not None
        return str(found["metadata"]["resourceVersion"])

    def _of_model(self, kind: str, model: str) -> str:
        which = "fieldSelector=metadata.name" if kind == "llm" else "labelSelector=topmast.dev%2Fmodel"
        return f"{collection(kind, self.namespace)}?{which}%3D{model}"

    def pods(self, model: str) -> list[Object]:
        return [pod for pod in self.list("pods", model) if "deletionTimestamp" not in pod["metadata"]]

    def checks(self, model: str) -> list[Object]:
        """The check pods of a model."""
        found = self.reader.get(f"{collection('pods', self.namespace)}?labelSelector=topmast.dev%2Fcheck%3D{model}")
        return list(found["items"]) if found else []

    def status(self, name: str) -> Object:
        found = self.get("llm", name)
        return found["status"] if found else {}

    def condition(self, name: str, kind: str) -> Object:
        for condition in self.status(name).get("conditions", []):
            if condition["type"] == kind:
                return dict(condition)
        return {"status": "absent", "reason": "", "message": ""}

    def until(self, what: str, look: Callable[[], Found], timeout_s: float = 60.0) -> Found:
        """The first true answer of `look`."""
        end = time.monotonic() + timeout_s
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > end:
                raise AssertionError(f"not within {timeout_s} s: {what}; last seen: {found!r}")
            time.sleep(0.1)

    def until_ready(self, name: str, replicas: int, timeout_s: float = 60.0) -> Object:
        """The object, once its status is about its present spec and says that all is done."""

        def look() -> Object | None:
            found = self.get("llm", name)
            if found is None or found["status"]["observedGeneration"] != found["metadata"]["generation"]:
                return None
            conditions = {item["type"]: item["status"] for item in found["status"].get("conditions", ())}
            done = conditions.get("Ready") == "True" and conditions.get("Reconciling") == "False"
            return found if done and found["status"]["readyReplicas"] == replicas else None

        try:
            found = self.until(f"{name} Ready with {replicas}", look, timeout_s)
        except AssertionError as late:
            raise AssertionError(f"{late}; status: {json.dumps(self.status(name), indent=1)}") from late
        assert found is not None
        return found

    def until_alone(self) -> None:
        """Nothing is left of earlier tests: as their namespaces go, so do their models, and each is a pass."""

        def alone() -> bool:
            found = self.reader.get("/api/v1/namespaces")
            return found is not None and all(one["status"]["phase"] == "Active" for one in found["items"])

        self.until("earlier tests' namespaces are gone", alone)

    def until_settled(self, name: str, replicas: int) -> list[str]:
        """Ready, the controllers have written that down too, and nothing was written since: `versions`."""

        def told() -> bool:
            counts = [item["status"].get("availableReplicas") for item in self.list("deploy", name)]
            budget = self.get("pdb", name)
            healthy = budget["status"].get("currentHealthy") if budget else replicas
            return counts == [replicas] and healthy == replicas

        self.until_ready(name, replicas)
        self.until("the controllers count so many", told)
        seen, since = self.versions(name), time.monotonic()

        def still() -> bool:
            nonlocal seen, since
            before, seen = seen, self.versions(name)
            if seen != before:
                since = time.monotonic()
            return time.monotonic() - since > 1.5

        self.until("nothing is written", still)
        return seen

    def versions(self, name: str) -> list[str]:
        """The versions of a model and its children, which every write changes."""
        one: list[Object | None] = [self.get(kind, name) for kind in ("llm", "service", "pdb")]
        found = [item for item in (*one, *self.list("deploy", name), *self.list("pods", name)) if item]
        return [item["metadata"]["resourceVersion"] for item in found]

    def remain(self, what: str, look: Callable[[], object], seconds: float) -> None:
        """`look` stays true for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert look(), f"did not stay: {what}"
            time.sleep(0.1)

    def until_told(self, name: str, *words: str) -> None:
        """The model's Events say all of it. They follow the status that they are about."""

        def look() -> bool:
            told = self.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}")
            return all(word in told for word in words)

        self.until(f"Events with {words}", look)

    @contextmanager
    def operator(self, *arguments: str, account: str = "operator") -> Iterator[Process]:
        """An operator process that acts as a service account; ended by the end of the block."""
        port = _free_port()
        log = self.directory / f"operator-{port}.log"
        command = [sys.executable, "-m", "topmast_cli.main", "operator", "--engine-image", IMAGE]
        command += ["--lease-namespace", SYSTEM, "--metrics-host", "127.0.0.1", "--metrics-port", str(port)]
        environment = {**os.environ, "KUBECONFIG": str(self._kubeconfig_of(account))}
        with log.open("wb") as output:
            popen = subprocess.Popen([*command, *arguments], env=environment, stdout=output, stderr=output)
        process = Process(popen, port, log)
        try:
            self.until("the operator answers", lambda: _answers(process))
            yield process
        finally:
            if popen.poll() is None:
                process.stop()
            text = log.read_text()
            assert "Traceback" not in text, text[-4000:]
            refused = 'User "system:serviceaccount' in text and not process.may_be_refused
            assert not refused, f"a right is missing: {text[-4000:]}"

    def grant(self, account: str, *, namespaces: tuple[str, ...] = ()) -> None:
        """Give a service account the rights of an installation: cluster-wide, or in these namespaces only."""
        bodies: list[Object] = [_body("v1", "ServiceAccount", account, SYSTEM)]
        bodies += _role_and_binding(account, f"{account}-lease", SYSTEM, LEASE_NAMESPACE)
        for namespace in namespaces:
            bodies += _role_and_binding(account, account, namespace, WATCHED_NAMESPACE)
        if not namespaces:
            bodies += _role_and_binding(account, account, None, WATCHED_NAMESPACE + CLUSTER)
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(bodies))

    def _kubeconfig_of(self, account: str) -> Path:
        path = self.directory / f"{account}.kubeconfig"
        config = yaml.safe_load(Path(self.cluster.kubeconfig).read_text())
        token = self.kubectl("create", "token", account, "-n", SYSTEM, "--duration=2h").strip()
        for user in config["users"]:
            user["user"] = {"token": token}
        path.write_text(yaml.safe_dump(config))
        path.chmod(0o600)
        return path


def _body(api_version: str, kind: str, name: str, namespace: str | None) -> Object:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _role_and_binding(account: str, name: str, namespace: str | None, rules: list[Object]) -> list[Object]:
    group, prefix = "rbac.authorization.k8s.io", "" if namespace else "Cluster"
    role = {**_body(f"{group}/v1", f"{prefix}Role", name, namespace), "rules": rules}
    binding = {
        **_body(f"{group}/v1", f"{prefix}RoleBinding", name, namespace),
        "roleRef": {"apiGroup": group, "kind": f"{prefix}Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": SYSTEM}],
    }
    return [role, binding]


def _answers(process: Process) -> bool:
    if process.popen.poll() is not None:
        raise AssertionError(f"the operator ended: {process.log.read_text()[-2000:]}")
    try:
        return process.get("/readyz")[0] == 200
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
