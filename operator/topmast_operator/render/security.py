"""What an engine pod may do: nothing but compute, by the restricted pod security standard, unless told otherwise.

`securityContext: {}` is for clusters that assign users themselves, such as OpenShift, and refuse any that a pod names.
"""

from collections.abc import Mapping
from typing import Any

from topmast_operator.api.pod import PodSettings

USER = 65532

_POD: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def of_pod(pod: PodSettings) -> dict[str, Any]:
    """The pod's securityContext; empty: the cluster decides."""
    return dict(pod.get("securityContext", _POD))


def of_container(pod: PodSettings) -> dict[str, Any]:
    """The engine container's securityContext; empty: the cluster decides."""
    return dict(pod.get("containerSecurityContext", _CONTAINER))
