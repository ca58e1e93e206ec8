"""The cluster that a command talks to: the official client, with the user's own rights."""

from __future__ import annotations

import os

import yaml
from kubernetes import client, config

from topmast_cli.failure import Failure

TIMEOUT_S = 10.0

# What the client raises for a kubeconfig that is no file, no YAML, or holds other things than it should.
_UNREADABLE = (config.ConfigException, OSError, yaml.YAMLError, ValueError, TypeError, AttributeError)


def core_api(kubeconfig: str | None) -> client.CoreV1Api:
    """With this kubeconfig; else the pod's service account where there is one; else the user's kubeconfig.

    Raises Failure where there is none that can be read.
    """
    configuration = client.Configuration()
    configuration.retries = False  # a person waits; the client would also warn of each try
    try:
        if kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    except _UNREADABLE as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise Failure(f"no cluster to talk to: {why}. Set KUBECONFIG, or use --kubeconfig.") from error
    return client.CoreV1Api(client.ApiClient(configuration))
