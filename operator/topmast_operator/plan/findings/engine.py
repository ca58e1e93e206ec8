"""What the engine says of itself, or what its end says of it: crashes, model files, and progress that does not come.

The engine's own word, the JSON line in its termination log, counts more than Kubernetes' view of the same crash.
"""

import json

from topmast_operator.api.facts import PodFacts, Termination
from topmast_operator.plan.findings.finding import Finding, Kind, Patience, Severity

SAME_FAILURE_LIMIT = 3
# Codes of the engine that no restart heals, and the field to look at: the engine knows of no LLMDeployment.
_MODEL_REMEDIES = {
    "ModelNotFound": "Correct spec.model.source, or put the files there.",
    "ModelCorrupt": "Replace the files, or correct spec.model.source.",
    "ModelUnsupported": "Choose another spec.model.source or spec.engine.image, or change what it names.",
}
PERMANENT_CODES = frozenset(_MODEL_REMEDIES)
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})


def engine_ended(pod: PodFacts, patience: Patience) -> Finding | None:
    ended = pod.terminated or pod.last_terminated
    # While the kubelet waits before it starts it again, the latest end is not yet a restart.
    times = pod.restarts + (1 if pod.terminated or pod.waiting_reason == "CrashLoopBackOff" else 0)
    if ended is None or (ended.exit_code == 0 and not pod.restarts):
        return None
    if pod.terminated and pod.last_terminated and not _same(pod.terminated, pod.last_terminated):
        times = 1
    return _crash(pod, ended, times)


def last_end(pod: PodFacts) -> Finding | None:
    """Why the engine of a pod was last restarted, be the pod well again or not."""
    return _crash(pod, pod.last_terminated, pod.restarts) if pod.last_terminated else None


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


def _crash(pod: PodFacts, ended: Termination, times: int) -> Finding:
    severity = Severity.FINAL if times >= SAME_FAILURE_LIMIT else Severity.HEALS
    logs = f"See kubectl logs {pod.name} --previous."

    def finding(kind: Kind, reason: str, message: str, *, permanent: bool = False) -> Finding:
        return Finding(kind, reason, message, severity, times, permanent)

    code, said = _engine_word(ended)
    if code in PERMANENT_CODES:
        return finding(Kind.MODEL, code, f"{_sentence(said)} {_MODEL_REMEDIES[code]}", permanent=True)
    if code:
        return finding(Kind.CRASH, code, f"{_sentence(said)} (Pod {pod.name}, {_times(times)}.) {logs}")
    if ended.reason == "OOMKilled":
        message = (
            f"Pod {pod.name} was killed for using more than its memory limit ({_times(times)}). "
            "Raise spec.resources.memory, or lower spec.engine.kvCacheBytes or maxNumSeqs."
        )
        return finding(Kind.CRASH, "OutOfMemory", message)
    if ended.reason in _NOT_STARTED:
        why = said.rpartition("unable to start container process: ")[2].removesuffix(": unknown").rstrip(". ")
        message = (
            f"The container of pod {pod.name} cannot be started ({_times(times)}): {why}. "
            "Check spec.engine.image, which must hold the program `topmast`, and spec.pod."
        )
        return finding(Kind.CONFIG, "ContainerCannotStart", message)
    if ended.exit_code == 2:
        message = f"The engine refused its arguments: {_last_line(said)}. Check spec.engine.extraArgs."
        return finding(Kind.CONFIG, "BadArguments", message, permanent=True)
    if ended.exit_code > 128:
        message = f"The engine of pod {pod.name} was killed by signal {ended.exit_code - 128} ({_times(times)}). {logs}"
        return finding(Kind.CRASH, "EngineKilled", message)
    message = (
        f"The engine of pod {pod.name} ended with code {ended.exit_code} ({_times(times)}): "
        f"{_last_line(said) or ended.reason or 'no word'}. {logs}"
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
