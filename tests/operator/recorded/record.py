"""Records what a real cluster says of each fault: one JSON file each, of what the operator's readers look at.

Run by hand, on a machine that can have an embedded cluster, when Kubernetes or the operator's templates have changed:

    python -m topmast_cluster --name topmast-record start --gpus node-1=1
    export PYTHONPATH=tests/operator
    python -m recorded.record --cluster topmast-record [FAULT ...]
    python -m topmast_cluster --name topmast-record stop

Without names it records all of them, in about half an hour. Afterwards the cluster's node is dead, as the last faults
ask for. `--image` names a server image that the node has already; without it the checkout's own is built and loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from operatorlab.facts import model

from recorded.catalogue import FAULTS
from recorded.faults import ODD_REGISTRY, REGISTRY, Fault, Object
from recorded.trim import is_warning_about, trim_conditions, trim_event, trim_metadata, trim_pod, waiting_message
from topmast_cluster.binaries import ensure_registry
from topmast_cluster.cluster import Cluster
from topmast_cluster.errors import ClusterError
from topmast_cluster.images.build import ensure_images
from topmast_cluster.images.load import load_images
from topmast_cluster.progress import Progress
from topmast_operator.act import paths
from topmast_operator.act.client import Api, ApiError
from topmast_operator.api.names import CONTAINER, model_selector
from topmast_operator.plan.revision import revision_of
from topmast_operator.render import children
from topmast_operator.render.template import EngineDefaults, render_template

FOLDER = Path(__file__).parent
TIMEOUT_S = 240.0


class Recorder:
    """One cluster, one fault at a time."""

    def __init__(self, cluster: Cluster, image: str) -> None:
        self.cluster = cluster
        self.image = image
        self.version = json.loads(self._kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]

    def record(self, fault: Fault) -> Object:
        """Makes the fault, waits until the cluster has said what is expected of it, and takes it away again."""
        namespace = f"record-{fault.name}"
        labels = {"metadata": {"name": namespace, "labels": fault.namespace_labels}}
        self._apply({"apiVersion": "v1", "kind": "Namespace", **labels})
        try:
            self._until(lambda: self._get(namespace, "serviceaccount", "default"), "the service account")
            for body in fault.objects:
                self._apply(body if is_cluster_wide(body) else in_namespace(namespace, body))
            for words in fault.before:
                self._do(namespace, *words)
            made = self._made(fault, namespace)
            if fault.refusal:
                self._until(
                    lambda: fault.refusal in self._dry_run(namespace, made["deployment" if fault.write else "pod"]),
                    "the admission",
                )
            return self._seen(fault, namespace, made)
        finally:
            for words in fault.after:
                self._do(namespace, *words)
            for body in filter(is_cluster_wide, fault.objects):
                self._kubectl("delete", body["kind"], body["metadata"]["name"], "--wait=false", "--ignore-not-found")
            self._kubectl("delete", "namespace", namespace, "--wait=false")
            self._kubectl("delete", "pods", "--all", "-n", namespace, "--grace-period=0", "--force", "--wait=false")

    def _made(self, fault: Fault, namespace: str) -> dict[str, Object]:
        """The Deployment that the operator would make, and a pod of its template."""
        of = replace(model(**fault.spec), namespace=namespace)
        template = render_template(of, revision_of(of), EngineDefaults(self.image))
        engine = next(item for item in template["spec"]["containers"] if item["name"] == CONTAINER)
        lay_over(template["spec"], fault.change)
        lay_over(engine, fault.engine)
        deployment = children.deployment(of, revision_of(of), template, 1, proven=False, failed=None)
        del deployment["metadata"]["ownerReferences"]  # there is no LLMDeployment, and perhaps no such kind
        name = {"name": deployment["metadata"]["name"], "namespace": namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {**template["metadata"], **name}}
        return {"deployment": deployment, "pod": pod}

    def _seen(self, fault: Fault, namespace: str, made: Mapping[str, Object]) -> Object:
        head = {"fault": fault.name, "kubernetes": self.version, "spec": fault.spec}
        if fault.write:
            answer = asyncio.run(self._write(namespace, made["deployment"]))
            return {**head, "recorded": now(), "refused": answer}
        self._apply(made["pod" if fault.bare else "deployment"])
        found: Object = {}

        def said() -> bool:
            found.clear()
            found.update(self._look(namespace))
            return fault.until(found)

        self._until(said, f"what {fault.name} should say", found)
        return {**head, "recorded": now(), **found}

    def _look(self, namespace: str) -> Object:
        """Everything about the model that the operator's readers look at, trimmed to it."""
        listed = json.loads(self._kubectl("get", "pods,deployments,pvc,quota,events", "-n", namespace, "-o", "json"))
        items: list[Object] = listed["items"]
        of_kind = {kind: [item for item in items if item["kind"] == kind] for kind in {item["kind"] for item in items}}
        selector = dict(pair.split("=") for pair in model_selector("m").split(","))
        pods = [pod for pod in of_kind.get("Pod", ()) if selector.items() <= pod["metadata"].get("labels", {}).items()]
        found: Object = {}
        if pods:
            pod = max(pods, key=lambda item: str(item["metadata"]["creationTimestamp"]))
            found["pod"] = trim_pod(pod)
            # Only of these are the Events read: the status of others says why they wait.
            if pod["status"]["phase"] == "Pending" and "nodeName" in pod["spec"] and not waiting_message(pod):
                found["events"] = [trim_event(item) for item in of_kind.get("Event", ()) if is_warning_about(item, pod)]
        for item in of_kind.get("Deployment", ()):
            found["deployment"] = {"metadata": trim_metadata(item), "status": trim_conditions(item)}
        for item in of_kind.get("PersistentVolumeClaim", ()):
            modes = {"accessModes": item["spec"]["accessModes"]}
            status = {"phase": item["status"]["phase"]}
            found["claim"] = {"metadata": trim_metadata(item), "spec": modes, "status": status}
        for item in of_kind.get("ResourceQuota", ()):
            found["quota"] = {"metadata": trim_metadata(item), "status": item["status"]}
        return found

    async def _write(self, namespace: str, deployment: Object) -> Object:
        """What the operator's own client is answered."""
        api = await Api.connect(str(self.cluster.kubeconfig))
        try:
            path = paths.child("Deployment", namespace, deployment["metadata"]["name"])
            await api.apply(path, deployment)
        except ApiError as error:
            return {"status": error.status, "message": str(error)}
        finally:
            await api.close()
        raise ClusterError("the API server took what it should refuse: see this fault in catalogue.py")

    def _do(self, namespace: str, *words: str) -> None:
        if words[0] == "kill-node":
            self.cluster.kill_node(words[1])
        else:
            self._kubectl(*words, "-n", namespace, timeout_s=150)

    def _dry_run(self, namespace: str, pod: Object) -> str:
        words = ("create", "--dry-run=server", "-n", namespace, "-f", "-")
        return self.cluster.kubectl(*words, stdin=json.dumps(pod), check=False).stderr

    def _apply(self, body: Object) -> None:
        self._kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(body))

    def _get(self, namespace: str, kind: str, name: str) -> bool:
        return self.cluster.kubectl("get", kind, name, "-n", namespace, check=False).returncode == 0

    def _kubectl(self, *words: str, stdin: str | None = None, timeout_s: float = 60) -> str:
        return self.cluster.kubectl(*words, stdin=stdin, timeout_s=timeout_s).stdout

    def _until(self, seen: Any, what: str, last: Object | None = None) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not seen():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {TIMEOUT_S:.0f} s: {what}; last seen: {json.dumps(last, indent=1)}")
            time.sleep(0.5)


def is_cluster_wide(body: Object) -> bool:
    cluster_wide = ("PersistentVolume", "StorageClass", "RuntimeClass")
    return body["kind"] in cluster_wide or str(body["apiVersion"]).startswith("admissionregistration")


def in_namespace(namespace: str, body: Object) -> Object:
    return {**body, "metadata": {**body["metadata"], "namespace": namespace}}


def lay_over(target: Object, change: Mapping[str, Any]) -> None:
    """Maps are merged and lists joined; an empty list clears what was there."""
    for key, value in change.items():
        if isinstance(value, Mapping):
            lay_over(target.setdefault(key, {}), value)
        elif isinstance(value, list) and value:
            target[key] = [*target.get(key, ()), *value]
        else:
            target[key] = value


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def registries(cluster: Cluster) -> Iterator[None]:
    """An empty registry and an odd one, on the node's own loopback, where containerd speaks plain HTTP."""
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        config = folder / "config.yaml"
        storage = f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}"
        config.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '{REGISTRY}'}}\n")
        odd = [sys.executable, str(FOLDER / "odd_registry.py"), ODD_REGISTRY.partition(":")[2]]
        for program in ([str(ensure_registry(Progress())), "serve", str(config)], odd):
            enter = ["nsenter", f"--net=/var/run/netns/{cluster.names.netns('node-1')}"]
            process = subprocess.Popen([*enter, *program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            running.callback(process.wait, 20)
            running.callback(process.terminate)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", required=True, help="the name of an embedded cluster that runs")
    parser.add_argument("--image", help="a server image that its node has, as REPOSITORY:TAG")
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="all of them, when none is named")
    options = parser.parse_args()
    known = {fault.name: fault for fault in FAULTS}
    if unknown := sorted(set(options.faults) - set(known)):
        parser.error(f"there is no fault {', '.join(unknown)}: see catalogue.py")
    cluster = Cluster(options.cluster)
    if not options.image:
        server = ensure_images(Progress())["server"]
        load_images(cluster, [server])
        options.image = server.reference
    recorder = Recorder(cluster, options.image)
    failures: dict[str, Exception] = {}
    with registries(cluster):
        for name in options.faults or known:
            began = time.monotonic()
            try:
                recording = recorder.record(known[name])
            except (TimeoutError, ClusterError) as error:
                failures[name] = error
                continue
            text = json.dumps(recording, indent=1, sort_keys=True, ensure_ascii=False)
            (FOLDER / f"{name}.json").write_text(f"{text}\n")
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    if failures:
        sys.exit("\n".join(f"{name}: {error}" for name, error in failures.items()))


if __name__ == "__main__":
    main()
