"""Objects as the cluster's admin reads them, without a kubectl process: waits ask several times a second."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]


class Reader:
    """One connection per question, with the kubeconfig's certificate."""

    def __init__(self, kubeconfig: Path) -> None:
        self._server, self._tls = connection(kubeconfig)

    def get(self, path: str) -> Object | None:
        """The object, or None when there is none."""
        try:
            with urllib.request.urlopen(self._server + path, timeout=30, context=self._tls) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def watch(self, path: str, since: str) -> Iterator[Object]:
        """Every change after a version, the earlier ones too: the API server remembers the last minute and more."""
        query = f"watch=1&resourceVersion={since}&timeoutSeconds=30"
        with urllib.request.urlopen(f"{self._server}{path}&{query}", timeout=60, context=self._tls) as answer:
            for line in answer:
                yield dict(json.loads(line))


def connection(kubeconfig: Path) -> tuple[str, ssl.SSLContext]:
    """The API server's address, and the certificates of both sides."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    tls = ssl.create_default_context(cadata=_pem(cluster, "certificate-authority").decode())
    with tempfile.NamedTemporaryFile() as pair:
        pair.write(_pem(user, "client-certificate") + b"\n" + _pem(user, "client-key"))
        pair.flush()
        tls.load_cert_chain(pair.name)
    return cluster["server"], tls


def collection(kind: str, namespace: str) -> str:
    """The path of a namespace's objects of a kind, by its name in kubectl."""
    prefix, plural = {
        "llm": ("/apis/topmast.dev/v1alpha1", "llmdeployments"),
        "deploy": ("/apis/apps/v1", "deployments"),
        "pods": ("/api/v1", "pods"),
        "service": ("/api/v1", "services"),
        "serviceaccount": ("/api/v1", "serviceaccounts"),
        "configmap": ("/api/v1", "configmaps"),
        "networkpolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
        "pdb": ("/apis/policy/v1", "poddisruptionbudgets"),
    }[kind]
    return f"{prefix}/namespaces/{namespace}/{plural}"


def _pem(entry: Object, name: str) -> bytes:
    data = entry.get(f"{name}-data")
    return base64.b64decode(data) if data else Path(entry[name]).read_bytes()
