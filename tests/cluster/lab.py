"""What a test of the whole product has in hand: a cluster with the chart installed, and the verbs of its users.

It owns no cluster and starts none; conftest.py does. Every wait has an end and says what it saw last.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from topmast_access.signing import SigningKey
from topmast_access.terms import GATEWAY
from traffic import Traffic

Object = dict[str, Any]
MODEL = "image:///models/smollm2.gguf"
SYSTEM = "topmast-system"
RELEASE = "topmast"
_NOT_YET = (AssertionError, LookupError, subprocess.TimeoutExpired, openai.OpenAIError, httpx.TransportError)


@dataclass(frozen=True)
class Lab:
    """One installed Topmast. `gateway_url` ends in /v1; `env` holds KUBECONFIG for every program."""

    kubectl_path: Path
    helm_path: Path
    kubeconfig: Path
    gateway_url: str
    key: str
    scrape_token: str = ""  # opens engines' metrics

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    # --- the user's programs

    def kubectl(self, *args: str, stdin: str | None = None, timeout_s: float = 120, check: bool = True) -> str:
        """kubectl's standard output; a failure carries what kubectl said."""
        return self._run(self.kubectl_path, args, stdin, timeout_s, check)

    def helm(self, *args: str, timeout_s: float = 180, check: bool = True) -> str:
        return self._run(self.helm_path, args, None, timeout_s, check)

    def _run(self, program: Path, args: tuple[str, ...], stdin: str | None, timeout_s: float, check: bool) -> str:
        done = subprocess.run(
            [program, *args], input=stdin, text=True, capture_output=True, timeout=timeout_s, env=self.env, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{program.name} {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout if check else done.stdout + done.stderr

    # --- objects

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        return json.loads(self.kubectl("-n", namespace, "get", kind, name, "-o", "json"))  # type: ignore[no-any-return]

    def list(self, kind: str, selector: str = "", namespace: str = "default") -> list[Object]:
        found = json.loads(self.kubectl("-n", namespace, "get", kind, "-l", selector, "-o", "json"))
        return found["items"]  # type: ignore[no-any-return]

    def apply(self, *manifests: Object) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def pods(self, model: str) -> list[Object]:
        """The engine pods of a model that are not on their way out."""
        found = self.list("pods", f"topmast.dev/model={model}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready_uids(self, model: str) -> set[str]:
        return {pod["metadata"]["uid"] for pod in self.pods(model) if condition(pod, "Ready")["status"] == "True"}

    def condition(self, model: str, kind: str) -> Object:
        return condition(self.get("llm", model), kind)

    # --- waiting

    def until(self, what: str, seen: Callable[[], Any], timeout_s: float = 90, every_s: float = 0.5) -> Any:
        """The first truthy value of `seen`; fails with the last value (or error) when there is none in time."""
        end, last = time.monotonic() + timeout_s, None
        while time.monotonic() < end:
            try:
                last = seen()
            except _NOT_YET as error:
                last = error
            else:
                if last:
                    return last
            time.sleep(every_s)
        raise AssertionError(f"not within {timeout_s:.0f} s: {what}; last seen: {last!r}\n{self.story()}")

    def until_ready(self, model: str, replicas: int = 1, timeout_s: float = 150) -> Object:
        def seen() -> Object | None:
            found = self.get("llm", model)
            status = found["status"]
            current = status["observedGeneration"] == found["metadata"]["generation"]
            is_ready = condition(found, "Ready")["status"] == "True"
            return found if current and is_ready and status.get("readyReplicas") == replicas else None

        return self.until(f"{model} Ready with {replicas} replicas", seen, timeout_s)  # type: ignore[no-any-return]

    def story(self) -> str:
        """What a person would look at first when a wait has failed."""
        parts = [
            self.kubectl("get", "llm,deploy,pods", "-A", "-o", "wide", check=False),
            self.kubectl(
                "get",
                "llm",
                "-A",
                "-o",
                "jsonpath={range .items[*]}{.metadata.name} {.status}{'\\n'}{end}",
                check=False,
            ),
            self.kubectl("-n", SYSTEM, "logs", "deploy/topmast-operator", "--tail=30", check=False),
            self.kubectl("logs", "-l", "app.kubernetes.io/name=topmast-engine", "--tail=30", "--prefix", check=False),
        ]
        return "\n".join(parts)

    # --- models and their users

    @contextmanager
    def model(self, name: str, *, source: str = MODEL, **spec: Any) -> Iterator[str]:
        """An LLMDeployment for the length of a block; afterwards it and its pods are gone."""
        self.apply(llm(name, source=source, **spec))
        try:
            yield name
        finally:
            self._remove(name, at_once="accelerator" not in spec.get("resources", {}))

    def _remove(self, model: str, *, at_once: bool) -> None:
        """Until its pods are gone, at_once without the seconds in which they would take their leave. A kubelet gives a
        device to nobody else before the container has ended, so who holds one goes the usual way."""
        selector = f"topmast.dev/model={model}"
        self.kubectl("delete", "llm", model, "--ignore-not-found", "--wait=false")

        def gone() -> bool:
            if at_once and not self.list("replicasets", selector):  # which would make new ones
                self.kubectl("delete", "pods", "-l", selector, "--grace-period=0", "--force", "--wait=false")
            return not self.list("pods", selector)

        self.until(f"the pods of {model} are gone", gone, 90)

    def client(self, **options: Any) -> openai.OpenAI:
        patience = openai.Timeout(120, connect=20)
        return openai.OpenAI(base_url=self.gateway_url, api_key=self.key, max_retries=0, timeout=patience, **options)

    def ask(self, model: str, text: str = "What is the capital of Japan?", **options: Any) -> str:
        answer = self.client().chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], **{"max_tokens": 24, "temperature": 0, **options}
        )
        return answer.choices[0].message.content or ""

    def engine_token(self, model: str, issuer: str = GATEWAY) -> str:
        """What opens the model's engines for five minutes, signed as gateway and operator do it."""
        data = self.get("secret", f"{RELEASE}-engine-keys", SYSTEM)["data"]
        key = SigningKey(base64.b64decode(data["signing.pem"]))
        return key.sign(f"default/{model}", issuer, time.time())

    def engine_metric(self, pod: Object, name: str) -> float:
        """The sum of a metric's samples of an engine."""
        return metric(pod, 8000, name, token=self.scrape_token)

    def computes(self, pod: Object) -> float:
        """Requests that the engine works on."""
        return self.engine_metric(pod, "vllm:num_requests_running")

    def traffic(self, model: str, **options: Any) -> Traffic:
        return Traffic(self.gateway_url, self.key, model, **options)

    # --- faults

    def engine_pid(self, pod: Object) -> int:
        """The process id, on this machine, of the engine process (not the API process) of a pod."""
        uid = pod["metadata"]["uid"]
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                ours = uid in (entry / "cgroup").read_text()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            except OSError:
                continue  # it ended while we looked
            if ours and b"topmast_server.engine" in command:
                return int(entry.name)
        raise AssertionError(f"pod {pod['metadata']['name']} has no engine process")

    def signal_engine(self, pod: Object, number: signal.Signals) -> None:
        os.kill(self.engine_pid(pod), number)


def llm(name: str, *, source: str = MODEL, **spec: Any) -> Object:
    """An LLMDeployment manifest; CPU is left unlimited, because the tests' engines share two cores."""
    return {
        "apiVersion": "topmast.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"model": {"source": source}, **spec},
    }


def address(pod: Object) -> str:
    return str(pod["status"]["podIP"])


def metric(pod: Object, port: int, name: str, timeout_s: float = 20, token: str = "") -> float:
    """The sum of a metric's samples, read from the pod itself: it answers without the API server, too."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(f"http://{address(pod)}:{port}/metrics", headers=headers, timeout=timeout_s, trust_env=False)
    assert answer.status_code == 200, f"{pod['metadata']['name']} tells no metrics: {answer.text}"
    text = answer.text
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.M))


def condition(thing: Object, kind: str) -> Object:
    found = [entry for entry in thing.get("status", {}).get("conditions", []) if entry["type"] == kind]
    return found[0] if found else {"type": kind, "status": "Unknown", "reason": "", "message": ""}
