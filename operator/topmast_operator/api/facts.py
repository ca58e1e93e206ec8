"""Facts that one reconcile gathers before it decides: children, pods, engines, free devices. Plain frozen data.

Must not hold a live client or a reference to a cache: the same facts must give the same plan, today and in a test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from topmast_operator.api.resource import Key, Model

OVERDUE_S = 15.0
ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True)
class Termination:
    """How a container ended: exit code, Kubernetes' reason, and what it left in the termination log."""

    exit_code: int
    reason: str
    message: str


@dataclass(frozen=True)
class Device:
    """What an engine computes on. `count` is of accelerators in use: 0 on CPUs."""

    kind: str  # cpu, cuda
    name: str
    count: int


@dataclass(frozen=True)
class EngineState:
    """What an engine said of itself at `/state`, with rates that the poller measured between two answers."""

    phase: str
    bytes_done: int = 0
    bytes_total: int = 0
    eta_s: float | None = None
    start_total_s: float | None = None
    running: int = 0
    waiting: int = 0
    waiting_prompt_tokens: int = 0
    kv_tokens_used: int = 0
    kv_tokens: int = 0
    prefill_tokens_per_s: float = 0.0  # measured capacity of this replica
    decode_tokens_per_s: float = 0.0
    offered_input_tokens_per_s: float = 0.0  # over the poller's window
    output_tokens_per_s: float = 0.0
    age_s: float = 0.0  # since this was read
    idle_s: float | None = None  # without work or a new request until then; counted from when it became ready
    device: Device | None = None  # None until it says so, and with engines that never do
    still_s: float = 0.0  # while it starts: since its phase or its loaded bytes last changed


@dataclass(frozen=True)
class PodFacts:
    """One pod, one that has ended included. `deleting`: it has a deletionTimestamp; `draining`: it was announced."""

    name: str
    revision: str
    node: str | None
    ip: str | None
    phase: str
    ready: bool
    deleting: bool
    draining: bool
    scheduled: bool | None  # None: the scheduler has not spoken, or may not because the pod is gated
    unschedulable_message: str
    waiting_reason: str
    waiting_message: str
    restarts: int
    terminated: Termination | None  # now
    last_terminated: Termination | None  # before the latest restart
    created_unix_s: float
    leaves_by_unix_s: float | None = None  # the end of its grace period, once it is being deleted
    engine: EngineState | None = None
    gates: tuple[str, ...] = ()  # scheduling gates that others have not lifted yet
    ended_reason: str = ""  # of a pod that Failed as a whole: Evicted, UnexpectedAdmissionError, OutOfcpu
    ended_message: str = ""
    scheduled_unix_s: float | None = None
    started_unix_s: float | None = None  # since when its container runs
    ready_unix_s: float | None = None  # since when it is ready
    stuck_message: str = ""  # the last warning about a pod that has a node and no container: a volume, a sandbox

    @property
    def ended(self) -> bool:
        """Over for good: its containers have ended and none will be started again."""
        return self.phase in ENDED

    def overdue(self, now: float) -> bool:
        """Should have left long ago: its node is lost, or its kubelet is."""
        return self.leaves_by_unix_s is not None and now > self.leaves_by_unix_s + OVERDUE_S


@dataclass(frozen=True)
class RevisionFacts:
    """One Deployment of the model. `template` is the pinned pod template, exactly as it was first rendered."""

    name: str
    revision: str
    created_unix_s: float
    replicas: int
    template: Mapping[str, Any]
    proven: bool
    failed: Mapping[str, str] | None
    replica_failure: str  # why the ReplicaSet cannot create pods, e.g. quota or pod security
    live: Mapping[str, Any]


@dataclass(frozen=True)
class Room:
    """Free devices of one accelerator resource, on nodes that the model may use. None where nodes may not be listed."""

    free: int
    total: int
    nodes: int
    largest_free_on_a_node: int
    largest_node: int = 0  # devices of the largest node, free or not
    holders: tuple[str, ...] = ()  # pods of others that hold devices there, namespace/name, the largest first


@dataclass(frozen=True)
class ClaimFacts:
    """A PersistentVolumeClaim. `phase` is empty when there is none of that name."""

    name: str
    phase: str = ""  # Bound, Pending, Lost
    access_modes: tuple[str, ...] = ()

    @property
    def one_node(self) -> bool:
        """Only pods of one node can mount it at a time."""
        return bool(self.access_modes) and set(self.access_modes) <= {"ReadWriteOnce", "ReadWriteOncePod"}


@dataclass(frozen=True)
class QuotaFacts:
    """A ResourceQuota of the model's namespace: amounts as Kubernetes writes them, by resource name."""

    name: str
    hard: Mapping[str, str]
    used: Mapping[str, str]


@dataclass(frozen=True)
class Queue:
    """What waits for a model at all gateways together, in tokens that engines will still compute and make.

    Growth is what comes beyond what engines take, per second and steadily: a single burst is none. Drained is what they
    took within the last minute beyond what came.
    """

    requests: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    oldest_s: float = 0.0  # how long the request that came first has waited
    prompt_growth_per_s: float = 0.0
    output_growth_per_s: float = 0.0
    prompt_drained: int = 0
    output_drained: int = 0
    unknown: str = ""  # why there may be more than this


@dataclass(frozen=True)
class Namesake:
    """A model of the namespace that goes by one of this model's aliases: by an alias too, or by its own name."""

    alias: str
    model: str
    created_unix_s: float

    @property
    def by_own_name(self) -> bool:
        return self.model == self.alias


@dataclass(frozen=True)
class WriteRefused:
    """What the API server said to the last write of this pass: its HTTP status, and its sentence."""

    status: int
    message: str


@dataclass(frozen=True)
class Facts:
    model: Model
    now: float
    revisions: tuple[RevisionFacts, ...] = ()
    pods: tuple[PodFacts, ...] = ()
    service: Mapping[str, Any] | None = None
    disruption_budget: Mapping[str, Any] | None = None
    access: Mapping[str, Any] | None = None  # the ConfigMap of its access file
    network_policy: Mapping[str, Any] | None = None
    room: Room | None = None
    foreign: tuple[str, ...] = ()  # kinds of children whose name somebody else has taken
    leftover: tuple[str, ...] = ()  # kinds of children of an earlier model of this name, on their way out
    strays: tuple[str, ...] = ()  # pods with the model's labels that none of its Deployments made
    check: PodFacts | None = None  # the pod that proves a revision without its accelerator; `revision` says which
    claim: ClaimFacts | None = None  # the claim of spec.model.source, if it names one
    quotas: tuple[QuotaFacts, ...] = ()
    refused: WriteRefused | None = None
    queue: Queue | None = None  # None: no gateway is asked, or the model is not scaled
    rival: str = ""  # the Lease of another operator that asked for this model lately, namespace/name
    namesakes: tuple[Namesake, ...] = ()  # who goes by the model's aliases, itself too
    fallbacks: Mapping[Key, bool | None] = field(default_factory=dict)  # whether they are there; None: not watched

    def pods_of(self, revision: str) -> tuple[PodFacts, ...]:
        """Pods of a revision that are there to stay."""
        return tuple(pod for pod in self.pods if pod.revision == revision and not pod.deleting and not pod.ended)
