"""Where things live in the API: one function per kind that the operator touches, and so the list of its rights."""

from topmast_operator.api.names import GROUP, PLURAL, VERSION


def models(namespace: str | None) -> str:
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}{scope}/{PLURAL}"


def model(namespace: str, name: str) -> str:
    return f"{models(namespace)}/{name}"


def child(kind: str, namespace: str, name: str = "") -> str:
    """The path of a child, or of its collection when no name is given."""
    prefix, plural = {
        "Deployment": ("/apis/apps/v1", "deployments"),
        "Service": ("/api/v1", "services"),
        "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
        "Pod": ("/api/v1", "pods"),
        "Event": ("/apis/events.k8s.io/v1", "events"),
        "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    }[kind]
    path = f"{prefix}/namespaces/{namespace}/{plural}"
    return f"{path}/{name}" if name else path
