"""How kopf reaches the API server: as the operator's own client does, by address, never by a name in the cluster's DNS.

kopf's own service-account login asks for `kubernetes.default.svc`, and in a cluster without DNS retries that for ever.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kopf

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def login(**arguments: Any) -> kopf.ConnectionInfo | None:
    """A kopf login handler. Called again when a token has expired: the file then holds a new one."""
    return login_in_pod(os.environ, SERVICE_ACCOUNT) or kopf.login_with_kubeconfig(**arguments)


def login_in_pod(environment: Mapping[str, str], directory: Path) -> kopf.ConnectionInfo | None:
    """The pod's service account, or None outside of a pod."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not (directory / "token").exists():
        return None
    address = f"[{host}]" if ":" in host else host
    return kopf.ConnectionInfo(
        server=f"https://{address}:{port}",
        ca_path=str(directory / "ca.crt"),
        token=(directory / "token").read_text().strip(),
    )
