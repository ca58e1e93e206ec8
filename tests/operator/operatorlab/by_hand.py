"""Causes that no pod's status tells, as facts by hand: in the same three places as a recording (recordings.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from operatorlab.facts import NOW, model, pod, revision, settled
from topmast_operator.api.facts import EngineState, Facts, PodFacts, QuotaFacts, Room, Termination, WriteRefused
from topmast_operator.api.times import to_text
from topmast_operator.plan.revision import revision_of

OLD = {"source": "image:///models/old.gguf"}
FULL = Room(free=0, total=1, nodes=1, largest_free_on_a_node=0, largest_node=1, holders=("team-b/notebook-0",))
NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


@dataclass(frozen=True)
class ByHand:
    """`pod` is what the wanted revision's pod is like, after so many seconds and so many ends; None: there is none.
    `facts` is what else is known."""

    pod: Callable[[float, int], Mapping[str, Any]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    times: int = 3

    def first(self, waited_s: float) -> Facts:
        of = model(**self.spec)
        return replace(Facts(of, NOW, (revision(of, 1, proven=False),), self._pods(waited_s)), **self.facts)

    def successor(self, waited_s: float) -> Facts:
        of, before = model(**self.spec), settled(model(**{**self.spec, "model": OLD}), 1)
        revisions = (*before.revisions, revision(of, 1, age_s=0, proven=False))
        pods = (*before.pods, *self._pods(waited_s))
        return replace(before, model=of, revisions=revisions, pods=pods, **self.facts)

    def ended(self, times: int) -> ByHand:
        return replace(self, times=times)

    def _pods(self, waited_s: float) -> tuple[PodFacts, ...]:
        if self.pod is None:
            return ()
        born = NOW - waited_s
        more = {"created_unix_s": born, "scheduled_unix_s": born, **self.pod(waited_s, self.times)}
        return (pod(model(**self.spec), ready=False, **more),)


@dataclass(frozen=True)
class OnTheOnlyGpu:
    """A revision that must take the room of the one that serves: whoever it follows is part of the cause."""

    change: Callable[[Facts], Facts]
    spec: Mapping[str, Any] = field(default_factory=dict)

    def successor(self, waited_s: float) -> Facts:
        gpu = {"accelerator": {"count": 1}}
        before = settled(model(resources=gpu, model=OLD), 1)
        of = model(**{"resources": gpu, **self.spec})
        check = pod(of, 7, ready=False, phase="Succeeded", created_unix_s=NOW - waited_s)
        return self.change(replace(before, model=of, room=FULL, check=check))


def room_taken(before: Facts) -> Facts:
    """The old replica has left for the new one, and somebody else was faster."""
    name = revision_of(before.model)
    swapping = {"phase": "Swapping", "revision": name, "startedAt": to_text(NOW - 60), "strategy": "Recreate"}
    of = replace(before.model, status={"rollout": swapping, "observedGeneration": -1})
    emptied = tuple(replace(item, replicas=0) for item in before.revisions)
    waiting = {"scheduled": False, "node": None, "unschedulable_message": NO_GPU, "scheduled_unix_s": None}
    pods = (pod(before.model, ready=False, phase="Pending", **waiting),)
    return replace(before, model=of, revisions=(*emptied, revision(of, 1, age_s=0, proven=False)), pods=pods)


def quota_lowered(before: Facts) -> Facts:
    """Since the old replica was made: it may stay, and nothing may follow it."""
    key = "requests.nvidia.com/gpu"
    return replace(before, quotas=(QuotaFacts("team", {key: "0"}, {key: "1"}),))


def stuck(message: str) -> Callable[[float, int], Mapping[str, Any]]:
    return lambda waited_s, times: {"phase": "Pending", "stuck_message": message, "started_unix_s": None}


def silent(waited_s: float, times: int) -> Mapping[str, Any]:
    return {"started_unix_s": NOW - waited_s}


def still(waited_s: float, times: int) -> Mapping[str, Any]:
    return {"engine": EngineState("loading", 5_000, 90_000, still_s=waited_s)}


def draining(waited_s: float, times: int) -> Mapping[str, Any]:
    return {"engine": EngineState("draining", running=1)}


def ends(exit_code: int, message: str) -> Callable[[float, int], Mapping[str, Any]]:
    """The engine has ended so many times and waits for its next start."""
    ended = Termination(exit_code, "Error", message)

    def waiting(waited_s: float, times: int) -> Mapping[str, Any]:
        restarts = {"restarts": times - 1, "last_terminated": ended}
        return {"waiting_reason": "CrashLoopBackOff", "started_unix_s": None, **restarts}

    return waiting


def refused(status: int, message: str) -> Mapping[str, Any]:
    return {"refused": WriteRefused(status, message)}


CASES: Mapping[str, ByHand | OnTheOnlyGpu] = {
    "attached-elsewhere": ByHand(stuck('FailedAttachVolume: Multi-Attach error for volume "pv-1": used by pod(s) m-0')),
    "kv-cache-too-large": ByHand(
        ends(10, '{"code": "OutOfMemory", "message": "the KV cache holds 90 tokens; raise the memory limit"}')
    ),
    "engine-process-died": ByHand(
        ends(11, '{"code": "EngineDied", "message": "the engine process died while loading: signal 11"}')
    ),
    "load-stands-still": ByHand(still),
    "engine-silent": ByHand(silent),
    "drained-by-others": ByHand(draining),
    "api-unavailable": ByHand(facts=refused(503, "etcdserver: leader changed")),
    "apply-forbidden": ByHand(
        facts=refused(403, 'deployments.apps "m-1" is forbidden: User "topmast-operator" cannot patch resource')
    ),
    "name-taken": ByHand(facts={"foreign": ("Service",)}),
    "predecessor-leaving": ByHand(facts={"leftover": ("Deployment",)}),
    "room-taken": OnTheOnlyGpu(room_taken),
    "quota-lowered": OnTheOnlyGpu(quota_lowered),
    "needs-more-room": OnTheOnlyGpu(lambda before: before, {"resources": {"accelerator": {"count": 2}}}),
}
