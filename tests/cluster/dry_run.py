"""Server-side dry runs of rendered objects, over one connection: kubectl would take longer to start than all of it."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from cluster.chart_rendering import Object

_PLURALS = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}
_CLUSTER_WIDE = ("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace")


class DryRun:
    """`refusal` says what the API server has against an object; unknown fields are a refusal, too."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def refusal(self, item: Object) -> str:
        """Empty when the object is taken."""
        options = {"dryRun": "All", "fieldManager": "test", "fieldValidation": "Strict", "force": "true"}
        headers = {"content-type": "application/apply-patch+yaml"}
        answer = self._client.patch(_path(item), params=options, headers=headers, content=json.dumps(item))
        if answer.is_success:
            return ""
        return f"{item['kind']} {item['metadata']['name']}: {answer.json().get('message', answer.text)}"


@contextmanager
def dry_run(kubeconfig: Path, scratch: Path) -> Iterator[DryRun]:
    """As the user of a kubeconfig. `scratch` is a folder for its certificates."""
    config = json.loads(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    pair = scratch / "client.pem"
    pair.write_bytes(b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key")))
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    context.load_cert_chain(pair)
    with httpx.Client(base_url=cluster["server"], verify=context, trust_env=False, timeout=30) as client:
        yield DryRun(client)


def _path(item: Object) -> str:
    kind, version, metadata = item["kind"], item["apiVersion"], item["metadata"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    place = "" if kind in _CLUSTER_WIDE else f"/namespaces/{metadata['namespace']}"
    return f"{root}{place}/{_PLURALS.get(kind, f'{kind.lower()}s')}/{metadata['name']}"
