"""What is wrong with a pod, from what scheduler, kubelet and the engine itself say: one sentence with a way out.

`POD_CHECKS` is the order in which the causes are looked for: an earlier one hides the later ones, which it explains.
The engine's own word (the JSON line in its termination log) counts more than Kubernetes' view of the same crash.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from topmast_operator.api.facts import PodFacts, Termination, WriteRefused

PERMANENT_CODES = frozenset({"ModelNotFound", "ModelCorrupt", "ModelUnsupported"})
SAME_FAILURE_LIMIT = 3
CLAIM_GRACE_S = 30.0  # what is applied in one go arrives within seconds
CONFIG_GRACE_S = 60.0  # Secrets that another controller makes come later
PULL_GRACE_S = 90.0  # four tries of the kubelet
VOLUME_GRACE_S = 300.0  # attaching a disk may take minutes
_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
# No registry says these in passing: they hold until somebody acts.
_PULL_FINAL = ("not found", "manifest unknown", "denied", "unauthorized", "authentication required", "no match for")
_ROOM = ("Insufficient ", "Too many pods", "free ports", "preemption victims")


class Kind(StrEnum):
    MODEL = "model"  # its files
    CLAIM = "claim"  # the volume that they are on
    CAPACITY = "capacity"  # room that may come
    NODES = "nodes"  # no node takes it, however much room there is
    IMAGE = "image"
    CONFIG = "config"
    CRASH = "crash"
    PROGRESS = "progress"  # nothing moves


class Severity(IntEnum):
    HEALS = 0  # goes on by itself, and is tried for ever
    HUMAN = 1  # will probably need a human, and was not tried often or long enough to say so
    FINAL = 2  # only a human can mend it


@dataclass(frozen=True)
class Finding:
    kind: Kind
    reason: str  # CamelCase, stable, for machines
    message: str  # for a tired human
    severity: Severity = Severity.HEALS
    times: int = 1
    permanent: bool = False  # the engine itself says that no restart can heal it

    @property
    def final(self) -> bool:
        return self.severity is Severity.FINAL

    @property
    def gives_up(self) -> bool:
        """Not even worth the room that its pod holds."""
        return self.permanent and self.final


@dataclass(frozen=True)
class Patience:
    """How a pod is judged. A revision that was proven once is never given up: what it meets heals, or is message."""

    now: float
    proven: bool
    deadline_s: float  # spec.rollout.progressDeadlineSeconds


def diagnose(pod: PodFacts, patience: Patience) -> Finding | None:
    """The finding about one pod that is not ready; None when it is ready, leaving, or simply still starting."""
    if pod.ready or pod.deleting:
        return None
    found = next((finding for check in POD_CHECKS if (finding := check(pod, patience))), None)
    if found and found.final and patience.proven:
        return replace(found, severity=Severity.HUMAN)
    return found


def worst(pods: Sequence[PodFacts], patience: Patience) -> Finding | None:
    """The finding to tell first: what needs a human before what heals, then the one seen most often."""
    found = [finding for pod in pods if (finding := diagnose(pod, patience))]
    return max(found, key=lambda finding: (finding.severity, finding.permanent, finding.times), default=None)


def last_end(pod: PodFacts) -> Finding | None:
    """Why the engine of a pod was last restarted, be the pod well again or not."""
    return _crash(pod, pod.last_terminated, pod.restarts) if pod.last_terminated else None


def gated(pod: PodFacts, patience: Patience) -> Finding | None:
    if not pod.gates or pod.node:
        return None
    who = ", ".join(pod.gates)
    message = (
        f"Pod {pod.name} may not be scheduled yet: it waits until the owner of its scheduling gate lifts it ({who})."
    )
    return Finding(Kind.CAPACITY, "SchedulingGated", message)


def claim_is_missing(pod: PodFacts, patience: Patience) -> Finding | None:
    said = _unschedulable(pod)
    if "persistentvolumeclaim" in said and "not found" in said:
        message = f"The claim of spec.model.source is missing: {said}. Create it, or correct spec.model.source."
        return Finding(Kind.CLAIM, "ClaimNotFound", message, _after(pod.created_unix_s, CLAIM_GRACE_S, patience))
    return None


def claim_is_not_bound(pod: PodFacts, patience: Patience) -> Finding | None:
    said = _unschedulable(pod)
    if "unbound immediate PersistentVolumeClaims" in said or "bound to non-existent" in said:
        message = (
            f"The claim of spec.model.source has no volume yet: {said}. See kubectl describe pvc: its storage class "
            "must exist and have room."
        )
        return Finding(Kind.CLAIM, "ClaimNotBound", message, _after(pod.created_unix_s, VOLUME_GRACE_S, patience))
    if "being deleted" in said and "persistentvolumeclaim" in said:
        message = (
            f"The claim of spec.model.source is being deleted: {said}. Create it anew, or correct spec.model.source."
        )
        return Finding(Kind.CLAIM, "ClaimNotFound", message, _after(pod.created_unix_s, CLAIM_GRACE_S, patience))
    return None


def claim_is_elsewhere(pod: PodFacts, patience: Patience) -> Finding | None:
    """A volume that only other nodes can have, or that another pod holds alone."""
    said = _unschedulable(pod)
    if "volume node affinity conflict" in said or "ReadWriteOncePod" in said or "already in use by pod" in said:
        message = (
            f"The volume of spec.model.source cannot be had where there is room: {said}. Use a claim with access mode "
            "ReadOnlyMany or ReadWriteMany, or make room on the node of the volume."
        )
        return Finding(Kind.CLAIM, "ClaimInUse", message)
    return None


def no_node_takes_it(pod: PodFacts, patience: Patience) -> Finding | None:
    said = _unschedulable(pod)
    if not said or any(word in said for word in _ROOM):
        return None
    message = (
        f"No node takes pod {pod.name}, however much room there is: {said}. Uncordon or label a node, or correct "
        "spec.placement (nodeSelector, tolerations)."
    )
    return Finding(Kind.NODES, "NoSuitableNode", message, _after(pod.created_unix_s, patience.deadline_s, patience))


def no_room(pod: PodFacts, patience: Patience) -> Finding | None:
    said = _unschedulable(pod)
    return Finding(Kind.CAPACITY, "Unschedulable", f"No node has room for pod {pod.name}: {said}.") if said else None


def failed_as_a_whole(pod: PodFacts, patience: Patience) -> Finding | None:
    """Evicted, refused by the kubelet, lost with its node: the ReplicaSet makes another one."""
    if pod.phase != "Failed":
        return None
    reason = pod.ended_reason if pod.ended_reason.isidentifier() else "PodFailed"
    said = pod.ended_message.strip().rstrip(". ") or "no reason was given"
    message = f"Pod {pod.name} failed as a whole ({reason}): {said}. Another one takes its place."
    return Finding(Kind.CAPACITY, reason, message)


def image_name_is_invalid(pod: PodFacts, patience: Patience) -> Finding | None:
    if pod.waiting_reason != "InvalidImageName":
        return None
    message = f"The image name is invalid: {pod.waiting_message.rstrip('. ')}. Correct spec.engine.image."
    return Finding(Kind.IMAGE, "InvalidImage", message, Severity.FINAL)


def image_cannot_be_pulled(pod: PodFacts, patience: Patience) -> Finding | None:
    if pod.waiting_reason not in _PULL:
        return None
    said = (pod.waiting_message or pod.waiting_reason).rstrip(". ")
    for_good = pod.waiting_reason == "ErrImageNeverPull" or any(word in said.lower() for word in _PULL_FINAL)
    severity = Severity.FINAL if for_good else _after(pod.scheduled_unix_s, PULL_GRACE_S, patience)
    message = (
        f"The image of pod {pod.name} cannot be pulled: {said}. Check spec.engine.image and "
        "spec.pod.imagePullSecrets, and that the node may reach the registry."
    )
    return Finding(Kind.IMAGE, "ImagePull", message, severity)


def container_cannot_be_made(pod: PodFacts, patience: Patience) -> Finding | None:
    if pod.waiting_reason not in _CONFIG:
        return None
    message = (
        f"The container of pod {pod.name} cannot be made ({pod.waiting_reason}): {pod.waiting_message.rstrip('. ')}. "
        "Create what is missing, or correct spec.engine.env and spec.pod."
    )
    return Finding(Kind.CONFIG, "ContainerConfig", message, _after(pod.scheduled_unix_s, CONFIG_GRACE_S, patience))


def volume_does_not_mount(pod: PodFacts, patience: Patience) -> Finding | None:
    if not pod.stuck_message or pod.started_unix_s is not None:
        return None
    said = pod.stuck_message.rstrip(". ")
    if "Multi-Attach" in said:
        message = (
            f"The volume of spec.model.source is attached to another node: {said}. Use a claim with access mode "
            "ReadOnlyMany or ReadWriteMany, or let the old replica leave first (spec.rollout.strategy: Recreate)."
        )
        return Finding(Kind.CLAIM, "ClaimInUse", message)
    message = f"Pod {pod.name} has a node and no container: {said}. See kubectl describe pod {pod.name}."
    return Finding(Kind.CLAIM, "VolumeNotMounted", message, _after(pod.scheduled_unix_s, VOLUME_GRACE_S, patience))


def engine_ended(pod: PodFacts, patience: Patience) -> Finding | None:
    ended, times = pod.terminated or pod.last_terminated, pod.restarts + (1 if pod.terminated else 0)
    if ended is None or (ended.exit_code == 0 and not pod.restarts):
        return None
    if pod.terminated and pod.last_terminated and not _same(pod.terminated, pod.last_terminated):
        times = 1
    return _crash(pod, ended, times)


def drained_by_others(pod: PodFacts, patience: Patience) -> Finding | None:
    if pod.engine is None or pod.engine.phase != "draining" or pod.draining:
        return None
    message = f"The engine of pod {pod.name} drains although nobody here asked for it: the pod is replaced."
    return Finding(Kind.PROGRESS, "DrainedByOthers", message)


def nothing_moves(pod: PodFacts, patience: Patience) -> Finding | None:
    """The engine answers and gets no further, or its container runs and never answers."""
    limit = f"{patience.deadline_s:.0f} s (spec.rollout.progressDeadlineSeconds)"
    if pod.engine is not None:
        if pod.engine.phase == "ready" or pod.engine.still_s < patience.deadline_s:
            return None
        part = (
            f"{pod.engine.bytes_done} of {pod.engine.bytes_total} bytes loaded" if pod.engine.bytes_total else "no byte"
        )
        message = (
            f"The engine of pod {pod.name} stands still in phase {pod.engine.phase} ({part}) since {limit}. Check the "
            f"storage of spec.model.source, and kubectl logs {pod.name}."
        )
        return Finding(Kind.PROGRESS, "LoadStandsStill", message, Severity.FINAL)
    if pod.started_unix_s is None or patience.now - pod.started_unix_s < patience.deadline_s:
        return None
    message = (
        f"The engine of pod {pod.name} runs and has not answered for {limit}. See kubectl logs {pod.name}; a "
        "NetworkPolicy may keep the operator from its admin port."
    )
    return Finding(Kind.PROGRESS, "EngineSilent", message, Severity.FINAL)


POD_CHECKS: tuple[Callable[[PodFacts, Patience], Finding | None], ...] = (
    gated,
    claim_is_missing,
    claim_is_not_bound,
    claim_is_elsewhere,
    no_node_takes_it,
    no_room,
    failed_as_a_whole,
    image_name_is_invalid,
    image_cannot_be_pulled,
    container_cannot_be_made,
    volume_does_not_mount,
    engine_ended,
    drained_by_others,
    nothing_moves,
)


def refused_pods(said: str) -> Finding:
    """What it means that Kubernetes makes no pods: a quota and an ailing webhook heal, a policy waits for a human."""
    message = f"Kubernetes refuses to create pods: {said.rstrip('. ')}."
    if "exceeded quota" in said:
        return Finding(Kind.CAPACITY, "PodsRefused", f"{message} Raise the quota, or lower spec.resources or replicas.")
    if "failed calling webhook" in said or "timeout" in said.lower() or "Internal error" in said:
        return Finding(Kind.CAPACITY, "PodsRefused", f"{message} It is tried again.")
    remedy = "Correct spec.pod (securityContext), or the policy of the namespace."
    return Finding(Kind.CONFIG, "PodsForbidden", f"{message} {remedy}", Severity.FINAL)


def refused_write(refused: WriteRefused) -> Finding:
    """What it means that the API server refused a child: what it calls wrong stays wrong until somebody acts."""
    said = refused.message.rstrip(". ")
    if refused.status >= 500 or refused.status in (409, 429):
        message = f"The API server could not write a child of this model: {said}. It is tried again."
        return Finding(Kind.CONFIG, "ApplyFailed", message)
    if "exceeded quota" in said:
        return refused_pods(said)
    message = (
        f"The API server refused a child of this model: {said}. Correct the field that it names, or what forbids it."
    )
    return Finding(Kind.CONFIG, "ApplyRefused", message, Severity.FINAL)


def _unschedulable(pod: PodFacts) -> str:
    return pod.unschedulable_message.rstrip(". ") or "the scheduler gives no reason" if pod.scheduled is False else ""


def _after(since_unix_s: float | None, grace_s: float, patience: Patience) -> Severity:
    """What only a human can mend is said so once it has lasted for `grace_s`."""
    lasted = since_unix_s is not None and patience.now - since_unix_s >= grace_s
    return Severity.FINAL if lasted else Severity.HUMAN


def _crash(pod: PodFacts, ended: Termination, times: int) -> Finding:
    severity = Severity.FINAL if times >= SAME_FAILURE_LIMIT else Severity.HEALS

    def finding(kind: Kind, reason: str, message: str, *, permanent: bool = False) -> Finding:
        return Finding(kind, reason, message, severity, times, permanent)

    code, said = _engine_word(ended)
    if code in PERMANENT_CODES:
        return finding(Kind.MODEL, code, _sentence(said), permanent=True)
    if code:
        return finding(Kind.CRASH, code, f"{_sentence(said)} (Pod {pod.name}, {_times(times)}.)")
    if ended.reason == "OOMKilled":
        message = (
            f"Pod {pod.name} was killed for using more than its memory limit ({_times(times)}). "
            "Raise spec.resources.memory, or lower spec.engine.kvCacheBytes or maxNumSeqs."
        )
        return finding(Kind.CRASH, "OutOfMemory", message)
    if ended.exit_code == 2:
        message = f"The engine refused its arguments: {_last_line(said)}. Check spec.engine.extraArgs."
        return finding(Kind.CONFIG, "BadArguments", message, permanent=True)
    if ended.exit_code > 128:
        message = f"The engine of pod {pod.name} was killed by signal {ended.exit_code - 128} ({_times(times)})."
        return finding(Kind.CRASH, "EngineKilled", message)
    message = (
        f"The engine of pod {pod.name} ended with code {ended.exit_code} ({_times(times)}): "
        f"{_last_line(said) or ended.reason or 'no word'}. See kubectl logs {pod.name} --previous."
    )
    return finding(Kind.CRASH, "EngineCrash", message)


def _engine_word(ended: Termination) -> tuple[str, str]:
    """Code and sentence of the termination log; an empty code when it holds no JSON line of the engine."""
    for line in reversed(ended.message.strip().splitlines()):
        try:
            word = json.loads(line)
        except ValueError:
            continue
        if isinstance(word, dict) and isinstance(word.get("code"), str):
            return word["code"], str(word.get("message", word["code"]))
    return "", ended.message


def _same(one: Termination, other: Termination) -> bool:
    return _engine_word(one)[0] == _engine_word(other)[0]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300].rstrip(". ") if lines else ""


def _sentence(words: str) -> str:
    words = words.strip()
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
