"""What it means that the API server refuses an object: a quota, a policy, a webhook, or a field that is wrong."""

from topmast_operator.api.facts import WriteRefused
from topmast_operator.plan.findings.finding import Finding, Kind, Severity

# Said in passing: whoever could not answer will, or the namespace goes and its models with it.
_PASSES = (
    "failed calling webhook",
    "Internal error",
    "Timeout: ",
    "timed out",
    "deadline exceeded",
    "being terminated",
)
_REMEDIES = (
    ("failed quota", "Set in spec.resources what the quota counts: it takes no pod without."),
    (" usage per ", "Change spec.resources, or the LimitRange of the namespace."),
    (" ratio per ", "Change spec.resources, or the LimitRange of the namespace."),
    ("looking up service account", "Create the service account, or correct spec.pod.serviceAccountName."),
    ("PriorityClass", "Create the PriorityClass, or correct spec.placement.priorityClassName."),
    ("RuntimeClass", "Create the RuntimeClass, or correct spec.pod.runtimeClassName."),
    ("PodSecurity", "Correct spec.pod (securityContext), or lower the level that the namespace enforces."),
)


def refused_pods(said: str) -> Finding:
    """What it means that Kubernetes makes no pods: a quota and an ailing webhook heal, a policy waits for a human."""
    message = f"Kubernetes refuses to create pods: {said.rstrip('. ')}."
    if "exceeded quota" in said:
        return _full_quota(message)
    if _passes(said):
        return Finding(Kind.CAPACITY, "PodsRefused", f"{message} It is tried again; see that what it names answers.")
    remedy = next(
        (remedy for words, remedy in _REMEDIES if words in said),
        "Correct spec.pod, or the policy that forbids it.",
    )
    return Finding(Kind.CONFIG, "PodsForbidden", f"{message} {remedy}", Severity.FINAL)


def refused_write(refused: WriteRefused) -> Finding:
    """What it means that the API server refused a child: what it calls wrong stays wrong until somebody acts."""
    said = refused.message.rstrip(". ")
    if refused.status >= 500 or refused.status in (409, 429):
        message = f"The API server could not write a child of this model: {said}. It is tried again."
        return Finding(Kind.CONFIG, "ApplyFailed", message)
    message = f"The API server refused a child of this model: {said}."
    if "exceeded quota" in said:
        return _full_quota(message)
    message = f"{message} Correct the field that it names, or what forbids it."
    return Finding(Kind.CONFIG, "ApplyRefused", message, Severity.FINAL)


def _full_quota(message: str) -> Finding:
    return Finding(Kind.CAPACITY, "PodsRefused", f"{message} Raise the quota, or lower spec.resources or replicas.")


def _passes(said: str) -> bool:
    """A policy may use such words too, in a sentence of its own: what it denies, it denies."""
    return any(words in said for words in _PASSES) and "denied the request" not in said
