"""Kubeconfig files with everything inside, so that one can be copied to another place and still works."""

import base64
import json
from pathlib import Path

from topmast_cluster.pki import KeyPair


def write_kubeconfig(path: Path, *, cluster: str, server: str, ca: Path, user: str, client: KeyPair) -> None:
    """JSON is YAML: written as JSON, one needs no YAML library and no quoting rules."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": _base64(ca)}}],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _base64(client.certificate),
                    "client-key-data": _base64(client.key),
                },
            }
        ],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1) + "\n")


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
