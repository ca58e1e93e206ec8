"""As much of an API server as an operator process needs, one that is slow to write and whose Lease a test takes away.

It stores nothing: what a test wants to know is which writes arrive, and when.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

GROUPS = {
    "": ("v1", {"pods": "Pod", "services": "Service", "persistentvolumeclaims": "PersistentVolumeClaim",
                "resourcequotas": "ResourceQuota", "nodes": "Node", "namespaces": "Namespace"}),
    "apps": ("v1", {"deployments": "Deployment"}),
    "policy": ("v1", {"poddisruptionbudgets": "PodDisruptionBudget"}),
    "topmast.dev": ("v1alpha1", {"llmdeployments": "LLMDeployment"}),
    "apiextensions.k8s.io": ("v1", {"customresourcedefinitions": "CustomResourceDefinition"}),
}  # fmt: skip


@dataclass
class SlowApi:
    """`holder`: who holds the Lease; None: calls about it are not answered. Times are monotonic seconds."""

    models: list[Object]
    write_s: float
    holder: str | None = ""
    writes: list[tuple[float, str]] = field(default_factory=list)
    renewed_at: float = 0.0
    told_lost_at: float = float("inf")  # when the process was first told that somebody else holds it
    port: int = 0
    _lease: Object = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, path: str, query: str, body: Object | None) -> tuple[int, Object] | None:
        """Status and JSON; None for a watch, which stays open and says nothing."""
        if "/leases" in path:
            return self._about_the_lease(method, body)
        if method != "GET":
            self.writes.append((time.monotonic(), f"{method} {path}"))
            self._stop.wait(self.write_s)
            return 200, {**(body or {}), "kind": "Something"}
        if (found := _discovery(path)) is not None:
            return 200, found
        if "watch=true" in query:
            return None
        plural = path.rpartition("/")[2]
        items = self.models if plural == "llmdeployments" else []
        return 200, {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items}

    def _about_the_lease(self, method: str, body: Object | None) -> tuple[int, Object]:
        if self.holder is None:
            self._stop.wait()
        if method == "GET" and not self._lease:
            return 404, {"message": "not found"}
        if method == "GET" and self.holder:
            self.told_lost_at = min(self.told_lost_at, time.monotonic())
            return 200, {**self._lease, "spec": {**self._lease["spec"], "holderIdentity": self.holder}}
        if method in ("POST", "PUT"):
            assert body is not None
            self.renewed_at = time.monotonic()
            self._lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(time.monotonic_ns())}}
        return 200, self._lease


def _discovery(path: str) -> Object | None:
    parts = path.strip("/").split("/")
    if parts == ["api"]:
        return {"versions": ["v1"]}
    if parts == ["apis"]:
        versions = {name: {"version": version} for name, (version, _) in GROUPS.items() if name}
        return {"groups": [{"name": n, "versions": [v], "preferredVersion": v} for n, v in versions.items()]}
    group = "" if parts == ["api", "v1"] else parts[1] if len(parts) == 3 and parts[0] == "apis" else None
    if group is None:
        return None
    namespaced = {kind: kind not in ("Node", "Namespace") for kind in GROUPS[group][1].values()}
    return {
        "resources": [
            {"name": name, "kind": kind, "singularName": "", "namespaced": namespaced[kind], "verbs": ["list", "watch"]}
            for name, kind in GROUPS[group][1].items()
        ]
    }


@contextmanager
def slow_api(kubeconfig: Path, models: list[Object], write_s: float) -> Iterator[SlowApi]:
    """Serves until the end of the block, at the address in `kubeconfig`."""
    api = SlowApi(models, write_s)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path, _, query = self.path.partition("?")
            answer = api.answer(self.command, path, query, body)
            if answer is None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                api._stop.wait()
                return
            text = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with contextlib.suppress(OSError):  # it may have given up on a slow answer
                self.wfile.write(text)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

        def log_message(self, format: str, *arguments: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.port = server.server_port
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield api
    finally:
        api._stop.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
