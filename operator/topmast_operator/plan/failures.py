"""What is wrong with a pod, from what kubelet, scheduler and the engine itself say: one sentence with a way out.

The engine's own word (the JSON line in its termination log) counts more than Kubernetes' view of the same crash.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from topmast_operator.api.facts import PodFacts, Termination

PERMANENT_CODES = frozenset({"ModelNotFound", "ModelCorrupt", "ModelUnsupported"})
SAME_FAILURE_LIMIT = 3
_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


class Kind(StrEnum):
    MODEL = "model"
    CAPACITY = "capacity"
    IMAGE = "image"
    CRASH = "crash"
    CONFIG = "config"


@dataclass(frozen=True)
class Problem:
    kind: Kind
    reason: str  # CamelCase, stable, for machines
    message: str  # for a tired human
    times: int = 1
    permanent: bool = False  # no restart can heal it

    @property
    def hopeless(self) -> bool:
        """Seen often enough in the same form to stop trying."""
        return self.permanent and self.times >= SAME_FAILURE_LIMIT


def diagnose(pod: PodFacts) -> Problem | None:
    """The problem of one pod that is not ready; None when it is ready, leaving, or simply still starting."""
    if pod.ready or pod.deleting:
        return None
    if pod.scheduled is False:
        return _unschedulable(pod)
    if pod.waiting_reason in _PULL:
        return Problem(
            Kind.IMAGE,
            "ImagePull",
            f"The image of pod {pod.name} cannot be pulled: {pod.waiting_message or pod.waiting_reason}. "
            "Check spec.engine.image, and that the node may pull it.",
        )
    if pod.waiting_reason == "InvalidImageName":
        message = f"The image name is invalid: {pod.waiting_message}. Correct spec.engine.image."
        return Problem(Kind.IMAGE, "InvalidImage", message, times=SAME_FAILURE_LIMIT, permanent=True)
    if pod.waiting_reason in _CONFIG:
        message = f"The container of pod {pod.name} cannot be made ({pod.waiting_reason}): {pod.waiting_message}"
        return Problem(Kind.CONFIG, "ContainerConfig", message)
    return _ended(pod)


def worst(pods: Sequence[PodFacts]) -> Problem | None:
    """The problem to tell first: hopeless before others, then the one seen most often."""
    found = [problem for pod in pods if (problem := diagnose(pod))]
    return max(found, key=lambda problem: (problem.hopeless, problem.permanent, problem.times), default=None)


def _unschedulable(pod: PodFacts) -> Problem:
    said = pod.unschedulable_message.rstrip(". ")
    if "persistentvolumeclaim" in said and "not found" in said:
        message = f"The claim of spec.model.source is missing: {said}. Create it, or correct spec.model.source."
        return Problem(Kind.MODEL, "ClaimNotFound", message)
    return Problem(Kind.CAPACITY, "Unschedulable", f"No node has room for pod {pod.name}: {said}.")


def last_end(pod: PodFacts) -> Problem | None:
    """Why the engine of a pod was last restarted, be the pod well again or not."""
    return _problem_of(pod, pod.last_terminated, pod.restarts) if pod.last_terminated else None


def _ended(pod: PodFacts) -> Problem | None:
    ended, times = pod.terminated or pod.last_terminated, pod.restarts + (1 if pod.terminated else 0)
    if ended is None or (ended.exit_code == 0 and not pod.restarts):
        return None
    if pod.terminated and pod.last_terminated and not _same(pod.terminated, pod.last_terminated):
        times = 1
    return _problem_of(pod, ended, times)


def _problem_of(pod: PodFacts, ended: Termination, times: int) -> Problem:
    code, said = _engine_word(ended)
    if code in PERMANENT_CODES:
        return Problem(Kind.MODEL, code, _sentence(said), times=times, permanent=True)
    if code:
        return Problem(Kind.CRASH, code, f"{_sentence(said)} (Pod {pod.name}, {_times(times)}.)", times=times)
    if ended.reason == "OOMKilled":
        message = (
            f"Pod {pod.name} was killed for using more than its memory limit ({_times(times)}). "
            "Raise spec.resources.memory, or lower spec.engine.kvCacheBytes or maxNumSeqs."
        )
        return Problem(Kind.CRASH, "OutOfMemory", message, times=times)
    if ended.exit_code == 2:
        message = f"The engine refused its arguments: {_last_line(said)}. Check spec.engine.extraArgs."
        return Problem(Kind.CONFIG, "BadArguments", message, times=times, permanent=True)
    if ended.exit_code > 128:
        signal = f"The engine of pod {pod.name} was killed by signal {ended.exit_code - 128} ({_times(times)})."
        return Problem(Kind.CRASH, "EngineKilled", signal, times=times)
    message = (
        f"The engine of pod {pod.name} ended with code {ended.exit_code} ({_times(times)}): "
        f"{_last_line(said) or ended.reason or 'no word'}. See kubectl logs {pod.name} --previous."
    )
    return Problem(Kind.CRASH, "EngineCrash", message, times=times)


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
