"""The controllers' side of a rollout in memory: pods follow Deployments, find room or not, start or fail, in rounds.

One `Town` is one model with an old revision that serves and a new one that a cause keeps from starting, or none does.
The words of scheduler, kubelet and engine are the recorded ones (recorded/*.json).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from operatorlab.facts import DEFAULTS, model, pod, revision, settled
from operatorlab.recordings import end_of, pod_of, refusal_of
from topmast_operator.api.facts import (
    EngineState,
    Facts,
    PodFacts,
    QuotaFacts,
    RevisionFacts,
    Room,
    Termination,
    WriteRefused,
)
from topmast_operator.api.resource import Model
from topmast_operator.plan import failure
from topmast_operator.plan.decision import Decision, decide
from topmast_operator.plan.revision import revision_of
from topmast_operator.plan.rollout_state import render
from topmast_operator.plan.victims import choose_victims
from topmast_operator.render.template import render_template

OLD: dict[str, Any] = {"model": {"source": "image:///models/old.gguf"}}
NEW: dict[str, Any] = {"model": {"source": "image:///models/new.gguf"}}
GPU = {"accelerator": {"count": 1}}


@dataclass(frozen=True)
class Cause:
    """Why the new revision cannot start: what scheduler, kubelet and engine then say, and who says it.

    `check` is the one of give_way.CHECKS that must refuse while an old replica would have to make way; empty where
    only a start can show the cause. `reasons` are those of which status must name one while it lasts.
    """

    name: str
    check: str
    reasons: tuple[str, ...]
    unschedulable: str = ""  # of every pod of the new revision, its check pod included
    waiting: tuple[str, str] | None = None  # likewise
    stuck: str = ""
    ends: Termination | None = None  # of its engine, at every start
    check_ends: Termination | None = None  # of its check pod
    stands_still: bool = False
    check_hangs: bool = False
    refused: str = ""  # by admission or a quota
    quota: int | None = None  # places in the namespace's quota, beyond those in use
    needs: int = 1  # accelerators of a new replica


def _unschedulable(name: str, check: str, reason: str, fault: str) -> Cause:
    return Cause(name, check, (reason,), unschedulable=pod_of(fault).unschedulable_message)


def _waiting(name: str, check: str, reason: str, fault: str) -> Cause:
    said = pod_of(fault)
    return Cause(name, check, (reason,), waiting=(said.waiting_reason, said.waiting_message))


def _ends(name: str, reason: str, ended: Termination) -> Cause:
    """At every start, and nothing of it shows in a check."""
    return Cause(name, "", (reason,), ends=ended)


def _load(code: str, fault: str) -> Cause:
    return Cause(code, "its_files_are_good", (code,), ends=end_of(fault), check_ends=end_of(fault))


NODE, PULL, CLAIM = "a_node_takes_it", "its_image_can_be_pulled", "its_claim_can_be_mounted"
CONTAINER, ROOM, QUOTA = "its_container_can_be_made", "it_fits_into_the_room_that_leaves", "the_quota_allows_it"
NO_ROOM = pod_of("gpu-taken").unschedulable_message
DIED = Termination(11, "Error", '{"code": "EngineDied", "message": "The engine process died. See its log."}')

CAUSES = (
    Cause("none", "", ()),
    _waiting("image", PULL, "ImagePull", "image-not-found"),
    _waiting("registry", PULL, "ImagePull", "registry-refuses"),
    _waiting("image name", PULL, "InvalidImage", "image-name-invalid"),
    _unschedulable("claim missing", CLAIM, "ClaimNotFound", "claim-missing"),
    _unschedulable("claim unbound", CLAIM, "ClaimNotBound", "claim-without-class"),
    _unschedulable("claim elsewhere", CLAIM, "ClaimInUse", "volume-elsewhere"),
    Cause("mount", CLAIM, ("VolumeNotMounted",), stuck=pod_of("volume-not-there").stuck_message),
    _waiting("secret missing", CONTAINER, "ContainerConfig", "secret-missing"),
    _ends("arguments", "BadArguments", end_of("bad-arguments")),
    _load("ModelNotFound", "model-not-found"),
    _load("ModelCorrupt", "model-corrupt"),
    _load("ModelUnsupported", "model-unsupported"),
    _ends("engine died", "EngineDied", DIED),
    _ends("crash", "EngineCrash", end_of("exit-code")),
    _ends("out of memory", "OutOfMemory", end_of("out-of-memory")),
    Cause("load stands still", "", ("LoadStandsStill",), stands_still=True),
    Cause(
        "check out of memory",
        "it_does_not_crash",
        ("OutOfMemory",),
        ends=end_of("out-of-memory"),
        check_ends=end_of("out-of-memory"),
    ),
    Cause("check hangs", "it_moves", ("CheckStandsStill", "LoadStandsStill"), stands_still=True, check_hangs=True),
    _unschedulable("cordon", NODE, "NoSuitableNode", "cordoned"),
    _unschedulable("toleration lost", NODE, "NoSuitableNode", "tainted"),
    Cause("admission", "pods_are_allowed", ("PodsForbidden",), refused=refusal_of("pod-security")),
    Cause("quota", "", (), quota=0),
    Cause("quota lowered", QUOTA, ("QuotaTooSmall",), quota=-1),
    Cause("needs more", ROOM, ("NeedsMoreRoom", "Unschedulable"), needs=2),
)
BY_NAME = {cause.name: cause for cause in CAUSES}


@dataclass(frozen=True)
class Setting:
    """One sequence: everything that is drawn."""

    seed: int
    cause: Cause
    wanted: int
    spare: int
    room_known: bool
    strategy: str
    surge_wait_s: int
    heals_after: int | None  # rounds; None: never
    outsider: tuple[int, int] | None  # rounds from when until when somebody else takes what is free
    node_after_s: float | None  # an autoscaler answers a pending pod with a node, this late
    outage: tuple[int, int] | None  # rounds in which the API server answers no write
    old_broken_until: int  # rounds for which one old replica is not ready
    grows: bool = False  # with the new revision one more replica is asked for, which makes the old ones one too few

    @classmethod
    def draw(cls, seed: int) -> Setting:
        dice = random.Random(seed)
        cause = CAUSES[seed % len(CAUSES)]
        sharing = dice.random() < 0.2
        return cls(
            seed=seed,
            cause=cause,
            wanted=dice.choice((1, 1, 1, 2, 2, 3, 4)),
            spare=dice.choice((0, 0, 0, 1, 2)),
            room_known=dice.random() < 0.6,
            strategy=dice.choice(("Auto", "Auto", "Auto", "Auto", "Surge", "Replace", "Recreate")),
            surge_wait_s=dice.choice((0, 0, 0, 60, 240)),
            heals_after=dice.choice((None, None, None, 8, 25)),
            outsider=(dice.randint(1, 12), dice.randint(20, 50)) if sharing else None,
            node_after_s=dice.choice((None, None, None, 180.0)),
            outage=dice.choice((None, None, (dice.randint(0, 10), dice.randint(11, 16)))),
            old_broken_until=dice.choice((0, 0, 0, 0, 20)),
            grows=dice.random() < 0.1,
        )


@lru_cache
def _beginning(
    replicas: int, wanted: int, needs: int, rolled: tuple[tuple[str, Any], ...]
) -> tuple[Facts, Model, Mapping[str, Any]]:
    """The old revision, settled; the model that asks for a new one; and that one's template."""
    old = model(replicas=replicas, resources=GPU, rollout=dict(rolled), **OLD)
    new = model(replicas=wanted, resources={"accelerator": {"count": needs}}, rollout=dict(rolled), **NEW)
    facts = replace(settled(old, replicas), model=replace(new, status={}))
    return facts, new, render_template(new, revision_of(new), DEFAULTS)


class Town:
    """The cluster of one setting; `step` is one pass of the operator and what everybody else makes of it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.dice = random.Random(setting.seed + 1)
        rolled = {
            "strategy": setting.strategy,
            "surgeWaitSeconds": setting.surge_wait_s,
            "progressDeadlineSeconds": 60,
        }
        self.facts, self.new, self.template = _beginning(
            setting.wanted, setting.wanted + setting.grows, setting.cause.needs, tuple(rolled.items())
        )
        (self.old_name,) = {item.revision for item in self.facts.revisions}
        self.new_name = revision_of(self.new)
        self.capacity = setting.wanted + setting.spare
        self.taken = 0
        self.round = 0
        self.number = 100
        self.pending_since: float | None = None
        self.written: Mapping[str, Any] = {}  # status.rollout as the cluster has it
        self.last: Decision | None = None

    def ready(self, revision: str | None = None) -> int:
        return sum(pod.ready and not pod.deleting for pod in self.facts.pods if revision in (None, pod.revision))

    @property
    def lasting(self) -> bool:
        """Whether the cause is there now."""
        return self.setting.heals_after is None or self.round < self.setting.heals_after

    @property
    def quiet(self) -> bool:
        """Nothing will change any more but by the operator."""
        late = [self.setting.heals_after or 0, self.setting.old_broken_until]
        late += [bounds[1] for bounds in (self.setting.outsider, self.setting.outage) if bounds]
        return self.round > max(late) + 3

    def step(self) -> Decision:
        setting = self.setting
        self.round += 1
        self.facts = replace(
            self.facts, now=self.facts.now + self.dice.choice((2.0, 10.0, 10.0, 30.0)), room=self._room()
        )
        decided = decide(self.facts, self.new_name, self.template)
        self.last = decided
        if not (setting.outage and setting.outage[0] <= self.round < setting.outage[1]):
            self._apply(decided)
            if decided.rollout.check and self.facts.check is None:
                # What the worker does when a write is refused: it plans again, to tell.
                refused = replace(self.facts, refused=WriteRefused(403, setting.cause.refused))
                self.last = decided = decide(refused, self.new_name, self.template)
            told = render(decided.rollout)
            self.written = {"rollout": told} if told else {}
            self.facts = replace(self.facts, model=replace(self.facts.model, status=dict(self.written)))
        self._controllers()
        return decided

    def _apply(self, decided: Decision) -> None:
        rolled, facts = decided.rollout, self.facts
        records = failure.records(facts, self.new_name, decided.failed)
        revisions: list[RevisionFacts] = []
        names = {item.revision for item in facts.revisions} | {self.new_name}
        for name in names - set(rolled.delete):
            known = next((item for item in facts.revisions if item.revision == name), None)
            if known is None:
                known = replace(revision(self.new, 0, age_s=-1e6, proven=False), template=self.template)
            proven = known.proven or any(pod.ready for pod in facts.pods_of(name))
            is_now = (rolled.replicas[name], proven, records.get(name))
            if (known.replicas, known.proven, known.failed) != is_now:
                known = replace(known, replicas=is_now[0], proven=is_now[1], failed=is_now[2])
            revisions.append(known)
        drained: set[str] = set()
        for name, count in rolled.replicas.items():
            pods = facts.pods_of(name)
            drained |= {pod.name for pod in choose_victims(pods, len(pods) - count, decided.situation.check_node)}
        pods = tuple(
            pod if pod.draining == (pod.name in drained) else replace(pod, draining=not pod.draining)
            for pod in facts.pods
        )
        check = facts.check
        if not rolled.check or (check and check.phase == "Failed"):
            check = None
        elif check is None and not (self.lasting and self.setting.cause.refused):
            check = self._pod("check")
        self.facts = replace(facts, revisions=tuple(revisions), pods=pods, check=check)

    def _controllers(self) -> None:
        """ReplicaSets, then kubelets and scheduler, then admission's word about what is missing."""
        setting, facts = self.setting, self.facts
        pods = [self._aged(pod) for pod in facts.pods if not (pod.deleting and self.dice.random() < 0.6)]
        revisions: list[RevisionFacts] = []
        for item in facts.revisions:
            mine = [pod for pod in pods if pod.revision == item.revision and not pod.deleting]
            refused = ""
            for gone in choose_victims(mine, len(mine) - item.replicas):
                pods.remove(gone)
                if gone.node is not None:  # what runs takes its time to leave
                    pods.append(replace(gone, deleting=True, ready=False, leaves_by_unix_s=facts.now + 40))
            for _ in range(item.replicas - len(mine)):
                refused = self._refuses(item.revision, pods)
                if refused:
                    break
                self.number += 1
                pods.append(replace(self._pod(item.revision), name=f"m-{item.revision}-{self.number}"))
            revisions.append(replace(item, replica_failure=refused) if item.replica_failure != refused else item)
        if setting.outsider:
            begins, ends = setting.outsider
            if self.round >= ends:
                self.taken = 0
            elif self.round >= begins:
                self.taken = max(self.taken, min(1, self.capacity - self._used(pods)))
        # The scheduler is fair to nobody: whoever comes first.
        pods = [self._scheduled(pod, pods) for pod in pods]
        check = self._checked(facts.check) if facts.check else None
        pending = any(pod.scheduled is False and "Insufficient" in pod.unschedulable_message for pod in pods)
        self.pending_since = (self.pending_since or facts.now) if pending else None
        if setting.node_after_s and self.pending_since and facts.now - self.pending_since > setting.node_after_s:
            self.capacity += setting.cause.needs
            self.pending_since = None
        self.facts = replace(
            facts, pods=tuple(pods), revisions=tuple(revisions), check=check, quotas=self._quotas(pods)
        )

    def _room(self) -> Room | None:
        if not self.setting.room_known:
            return None
        free = max(0, self.capacity - self._used(self.facts.pods) - self.taken)
        holders = ("elsewhere/other",) if self.taken else ()
        return Room(free, self.capacity, 1, free, self.capacity, holders)

    def _used(self, pods: Any) -> int:
        return sum(self._needs(pod.revision) for pod in pods if pod.node is not None)

    def _needs(self, name: str) -> int:
        return self.setting.cause.needs if name == self.new_name else 1

    def _quotas(self, pods: list[PodFacts]) -> tuple[QuotaFacts, ...]:
        if self.setting.cause.quota is None:
            return ()
        hard = str(self._hard())
        used = str(sum(self._needs(pod.revision) for pod in pods))
        key = "requests.nvidia.com/gpu"
        return (QuotaFacts("gpus", {key: hard}, {key: used}),)

    def _hard(self) -> int:
        """A quota that was lowered binds the new revision alone: what runs may be made again."""
        return self.setting.wanted + (self.setting.cause.quota or 0)

    def _refuses(self, name: str, pods: list[PodFacts]) -> str:
        cause = self.setting.cause
        if name == self.new_name and cause.refused and self.lasting:
            return cause.refused
        if cause.quota is not None:
            used = sum(self._needs(pod.revision) for pod in pods)
            if used + self._needs(name) > self._hard():
                return f'pods "m" is forbidden: exceeded quota: gpus, used: {used}'
        return ""

    def _pod(self, name: str) -> PodFacts:
        made = pod(self.new, 0, ready=False, node=None, scheduled=None, phase="Pending", created_unix_s=self.facts.now)
        fresh = replace(made, scheduled_unix_s=None, started_unix_s=None, ready_unix_s=None)
        return replace(fresh, revision=self.new_name if name == "check" else name)

    def _scheduled(self, of: PodFacts, pods: list[PodFacts]) -> PodFacts:
        if of.node is not None or of.deleting:
            return of
        cause = self.setting.cause
        if of.revision == self.new_name and cause.unschedulable and self.lasting:
            return replace(of, scheduled=False, unschedulable_message=cause.unschedulable)
        if self._used(pods) + self._needs(of.revision) + self.taken > self.capacity:
            return replace(of, scheduled=False, unschedulable_message=NO_ROOM)
        placed = replace(of, scheduled=True, node="n1", unschedulable_message="", scheduled_unix_s=self.facts.now)
        pods[pods.index(of)] = placed
        return placed

    def _aged(self, of: PodFacts) -> PodFacts:
        """A round of the kubelet."""
        if of.node is None or of.deleting:
            return of
        if of.revision == self.new_name and self.lasting:
            failed = self._fails(of, self.setting.cause.ends)
            if failed is not None:
                return failed
            if self.setting.cause.stands_still:
                still = self.facts.now - (of.scheduled_unix_s or self.facts.now)
                return replace(of, phase="Running", engine=EngineState("loading", 5, 10, still_s=still))
        broken = of.revision == self.old_name and of.name.endswith("-0") and self.round < self.setting.old_broken_until
        if broken:
            return replace(of, ready=False, restarts=1, last_terminated=DIED)
        if of.ready and of.phase == "Running":
            return of
        if self.dice.random() < 0.7:
            return replace(of, phase="Running", ready=True, waiting_reason="", stuck_message="", terminated=None)
        return replace(of, phase="Running", waiting_reason="", stuck_message="")

    def _fails(self, of: PodFacts, ends: Termination | None) -> PodFacts | None:
        cause = self.setting.cause
        if cause.waiting:
            reason, message = cause.waiting
            return replace(of, waiting_reason=reason, waiting_message=message)
        if cause.stuck:
            return replace(of, stuck_message=cause.stuck, started_unix_s=None)
        if ends:
            again = of.restarts + 1 if of.terminated or of.last_terminated else 0
            return replace(
                of, phase="Running", restarts=again, terminated=ends, last_terminated=ends if again else None
            )
        return None

    def _checked(self, of: PodFacts) -> PodFacts:
        cause = self.setting.cause
        if of.phase in ("Succeeded", "Failed"):
            return of
        if of.node is None:
            if self.lasting and cause.unschedulable:
                return replace(of, scheduled=False, unschedulable_message=cause.unschedulable)
            now = self.facts.now
            return replace(
                of, node="n1", scheduled=True, scheduled_unix_s=now, started_unix_s=now, unschedulable_message=""
            )
        if cause.check_hangs and self.lasting:
            return of
        failed = self._fails(of, cause.check_ends) if self.lasting else None
        return failed or replace(of, phase="Succeeded", terminated=None, waiting_reason="")
