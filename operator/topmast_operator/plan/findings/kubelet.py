"""What the kubelet says of a pod that has a node: it failed as a whole, or its image, container or volume is missing.

Most of it stands in the pod's status; of volumes and sandboxes the kubelet speaks in Events alone (watch/stuck.py).
"""

import re

from topmast_operator.api.facts import PodFacts
from topmast_operator.plan.findings.finding import Finding, Kind, Patience, Severity
from topmast_operator.plan.findings.scheduler import VOLUME_GRACE_S

CONFIG_GRACE_S = 60.0  # Secrets that another controller makes come later
PULL_GRACE_S = 90.0  # four tries of the kubelet
_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
# No registry says these in passing: they hold until somebody acts.
_NO_SUCH_IMAGE = ("not found", "manifest unknown", "no match for")
_NOT_ALLOWED = ("denied", "unauthorized", "forbidden", "authentication required")
_FILES_MISSING = re.compile(r"(?:secret|configmap) \"?[^ ]+ not found|references non-existent")
# The image's name again, and what containerd was about to do.
_WRAPPING = re.compile(
    r'(?<=: )(?:rpc error: code = \w+ desc = )?failed to pull and unpack image "[^"]*": '
    r'(?:failed to resolve reference "[^"]*": )?'
)
_POD_IN_BRACKETS = re.compile(r' \(pod: "[^"]*", container: \w+\)')


def failed_as_a_whole(pod: PodFacts, patience: Patience) -> Finding | None:
    """Evicted, refused by the kubelet, lost with its node: the ReplicaSet makes another one."""
    if pod.phase != "Failed":
        return None
    reason = pod.ended_reason if pod.ended_reason.isidentifier() else "PodFailed"
    said = pod.ended_message.strip().rstrip(". ") or "no reason was given"
    message = f"Pod {pod.name} failed as a whole ({reason}): {said}. Another one takes its place."
    if reason == "Evicted":
        message += f" If that repeats, raise the limit that it names, or see kubectl describe node {pod.node}."
    return Finding(Kind.CAPACITY, reason, message)


def image_name_is_invalid(pod: PodFacts, patience: Patience) -> Finding | None:
    if pod.waiting_reason != "InvalidImageName":
        return None
    message = f"The image name is invalid: {pod.waiting_message.rstrip('. ')}. Correct spec.engine.image."
    return Finding(Kind.IMAGE, "InvalidImage", message, Severity.FINAL)


def image_cannot_be_pulled(pod: PodFacts, patience: Patience) -> Finding | None:
    if pod.waiting_reason not in _PULL:
        return None
    said = _WRAPPING.sub("", pod.waiting_message or pod.waiting_reason).rstrip(". ")
    severity = Severity.FINAL
    if pod.waiting_reason == "ErrImageNeverPull":
        remedy = "Load it into the node, or set another spec.engine.image."
    elif any(words in said.lower() for words in _NOT_ALLOWED):
        remedy = "Check spec.engine.image, and the credentials that spec.pod.imagePullSecrets names."
    elif any(words in said.lower() for words in _NO_SUCH_IMAGE):
        remedy = "Correct spec.engine.image, or push what it names."
    else:
        remedy = "Check spec.engine.image, and that the node reaches the registry; the kubelet tries again."
        severity = patience.after(pod.scheduled_unix_s, PULL_GRACE_S)
    return Finding(Kind.IMAGE, "ImagePull", f"The image of pod {pod.name} cannot be pulled: {said}. {remedy}", severity)


def container_cannot_be_made(pod: PodFacts, patience: Patience) -> Finding | None:
    if pod.waiting_reason not in _CONFIG:
        return None
    said = _POD_IN_BRACKETS.sub("", pod.waiting_message).rstrip(". ")
    message = (
        f"The container of pod {pod.name} cannot be made ({pod.waiting_reason}): {said}. "
        "Create what is missing, or correct spec.engine.env and spec.pod."
    )
    return Finding(Kind.CONFIG, "ContainerConfig", message, patience.after(pod.scheduled_unix_s, CONFIG_GRACE_S))


def volume_does_not_mount(pod: PodFacts, patience: Patience) -> Finding | None:
    said = _stuck(pod)
    if "volume" not in said.lower():
        return None
    if "Multi-Attach" in said:
        message = (
            f"The volume of spec.model.source is attached to another node: {said}. Use a claim with access mode "
            "ReadOnlyMany or ReadWriteMany, or let the old replica leave first (spec.rollout.strategy: Recreate)."
        )
        return Finding(Kind.CLAIM, "ClaimInUse", message)
    if _FILES_MISSING.search(said):
        message = f"A volume of pod {pod.name} has no content: {said}. Create what is missing, or correct spec.pod."
        return Finding(Kind.CONFIG, "ContainerConfig", message, patience.after(pod.scheduled_unix_s, CONFIG_GRACE_S))
    message = (
        f"A volume of pod {pod.name} does not mount: {said}. Check the volume and its path, and see "
        f"kubectl describe pod {pod.name}."
    )
    return Finding(Kind.CLAIM, "VolumeNotMounted", message, patience.after(pod.scheduled_unix_s, VOLUME_GRACE_S))


def sandbox_cannot_be_made(pod: PodFacts, patience: Patience) -> Finding | None:
    """The network of the node, or its container runtime: all that a pod has before it has containers."""
    said = _stuck(pod)
    if not said:
        return None
    message = (
        f"Node {pod.node} makes no sandbox for pod {pod.name}: {said}. Check the node's network plug-in and "
        "spec.pod.runtimeClassName."
    )
    return Finding(Kind.CONFIG, "SandboxFailed", message, patience.after(pod.scheduled_unix_s, VOLUME_GRACE_S))


def _stuck(pod: PodFacts) -> str:
    return "" if pod.started_unix_s is not None else pod.stuck_message.rstrip(". ")
