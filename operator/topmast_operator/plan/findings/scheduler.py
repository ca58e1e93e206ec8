"""What the scheduler says of a pod that has no node: a gate, a claim, no node that takes it, or no room.

It speaks in one sentence about all nodes, whose words change with its version: those of Kubernetes 1.35 are recorded
in tests/operator/recorded, the older ones are kept beside them.
"""

import re

from topmast_operator.api.facts import PodFacts
from topmast_operator.plan.findings.finding import Finding, Kind, Patience, Severity

CLAIM_GRACE_S = 30.0  # what is applied in one go arrives within seconds
VOLUME_GRACE_S = 300.0  # making a volume, or attaching a disk, may take minutes
_CLAIM_MISSING = re.compile(r'persistentvolumeclaim "[^"]*" not found')
_NOT_BOUND = (
    "unbound immediate PersistentVolumeClaims",
    "bound to non-existent",
    "available persistent volumes to bind",
    "did not have enough free storage",
)
_ELSEWHERE = (
    "volume node affinity conflict",
    "PersistentVolume's node affinity",
    "no available volume zone",
    "ReadWriteOncePod",
    "already in use by pod",
)
# "No preemption victims found" is said of nodes where a pod that leaves would help, and of no others.
_ROOM = ("Insufficient ", "Too many pods", "free ports", "preemption victims")
_NODE_REMEDIES = (
    ("were unschedulable", "Uncordon a node (kubectl uncordon NODE)."),
    # Kubernetes 1.35 does not say which taint; a lost node, or one under pressure, has one too.
    (
        "untolerated taint",
        "See the nodes' taints (kubectl describe nodes): a node that is not ready or runs short of something loses its "
        "taint when it is well again; for any other, add a toleration to spec.placement.tolerations, or take it away.",
    ),
    ("affinity/selector", "Correct spec.placement.nodeSelector, or label a node."),
    ("no nodes available", "Add a node."),
)
# Of the attempt to make room by removing others: nothing that a reader could act upon.
_ASIDE = re.compile(r"\.? (?:no new claims to deallocate, )?preemption: .*$|\. not found$", re.DOTALL)


def brief(said: str) -> str:
    """The scheduler's sentence without what it says of preemption, and without a full stop."""
    return _ASIDE.sub("", said.rstrip(". ")).rstrip(".,; ")


def gated(pod: PodFacts, patience: Patience) -> Finding | None:
    if not pod.gates or pod.node:
        return None
    who = ", ".join(pod.gates)
    message = (
        f"Pod {pod.name} may not be scheduled yet: it waits until the owner of its scheduling gate lifts it ({who})."
    )
    return Finding(Kind.CAPACITY, "SchedulingGated", message)


def claim_is_missing(pod: PodFacts, patience: Patience) -> Finding | None:
    said = _said(pod)
    severity = patience.after(pod.created_unix_s, CLAIM_GRACE_S)
    if _CLAIM_MISSING.search(said):
        message = f"The claim of spec.model.source is missing: {brief(said)}. Create it, or correct spec.model.source."
        return Finding(Kind.CLAIM, "ClaimNotFound", message, severity)
    if "being deleted" in said and "persistentvolumeclaim" in said:
        message = (
            f"The claim of spec.model.source is being deleted: {brief(said)}. Create it anew, or correct "
            "spec.model.source."
        )
        return Finding(Kind.CLAIM, "ClaimNotFound", message, severity)
    return None


def claim_is_not_bound(pod: PodFacts, patience: Patience) -> Finding | None:
    said = _said(pod)
    if not any(words in said for words in _NOT_BOUND):
        return None
    message = (
        f"The claim of spec.model.source has no volume: {brief(said)}. See kubectl describe pvc: its storage class "
        "must exist and have room, or its volume must be there."
    )
    return Finding(Kind.CLAIM, "ClaimNotBound", message, patience.after(pod.created_unix_s, VOLUME_GRACE_S))


def claim_is_elsewhere(pod: PodFacts, patience: Patience) -> Finding | None:
    """A volume that only other nodes can have, or that another pod holds alone.

    It heals where a pod that leaves makes room beside the volume; where no node has both, a human must act.
    """
    said = _said(pod)
    if not any(words in said for words in _ELSEWHERE):
        return None
    heals = any(words in said for words in _ROOM)
    severity = Severity.HEALS if heals else patience.after(pod.created_unix_s, patience.deadline_s)
    message = (
        f"The volume of spec.model.source cannot be had where there is room: {brief(said)}. Use a claim with access "
        "mode ReadOnlyMany or ReadWriteMany, or make room on the node of the volume."
    )
    return Finding(Kind.CLAIM, "ClaimInUse", message, severity)


def no_node_takes_it(pod: PodFacts, patience: Patience) -> Finding | None:
    said = _said(pod)
    if not said or any(words in said for words in _ROOM):
        return None
    remedies = [remedy for words, remedy in _NODE_REMEDIES if words in said]
    remedy = " ".join(remedies) or "Correct spec.placement and spec.pod, or the labels and taints of a node."
    message = f"No node takes pod {pod.name}, however much room there is: {brief(said)}. {remedy}"
    return Finding(Kind.NODES, "NoSuitableNode", message, patience.after(pod.created_unix_s, patience.deadline_s))


def no_room(pod: PodFacts, patience: Patience) -> Finding | None:
    said = _said(pod)
    if not said:
        return None
    return Finding(Kind.CAPACITY, "Unschedulable", f"No node has room for pod {pod.name}: {brief(said)}. It waits.")


def _said(pod: PodFacts) -> str:
    """The whole sentence; empty for a pod that the scheduler has not refused."""
    return pod.unschedulable_message or "the scheduler gives no reason" if pod.scheduled is False else ""
