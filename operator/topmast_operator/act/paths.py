"""Where things live in the API: one function per kind that the operator touches, and so the list of its rights."""

from topmast_operator.api.names import GROUP, KIND, PLURAL, VERSION

KINDS = {
    KIND: (f"/apis/{GROUP}/{VERSION}", PLURAL),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Service": ("/api/v1", "services"),
    "PodDisruptionBudget": ("/apis/policy/v1", "poddisruptionbudgets"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "Pod": ("/api/v1", "pods"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "ResourceQuota": ("/api/v1", "resourcequotas"),
    "Event": ("/apis/events.k8s.io/v1", "events"),
    "Node": ("/api/v1", "nodes"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
}


def models(namespace: str | None) -> str:
    """The collection of models in a namespace, or in all of them."""
    return child(KIND, namespace)


def model(namespace: str, name: str) -> str:
    return child(KIND, namespace, name)


def child(kind: str, namespace: str | None, name: str = "") -> str:
    """The path of an object, or of its collection when no name is given; of all namespaces when none is given."""
    prefix, plural = KINDS[kind]
    path = f"{prefix}/namespaces/{namespace}/{plural}" if namespace else f"{prefix}/{plural}"
    return f"{path}/{name}" if name else path


def core_events(namespace: str) -> str:
    """Events by the older API, the one that can be asked for those about one object."""
    return f"/api/v1/namespaces/{namespace}/events"
