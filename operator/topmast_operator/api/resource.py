"""The LLMDeployment as frozen data, read from what the API server stored (so schema and CEL have passed).

Must not apply defaults of its own where the schema has one: a default in two places is a default that drifts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from topmast_operator.api.names import ANNOTATION_RETRY
from topmast_operator.api.pod import PodSettings, by_member, normal, plain
from topmast_operator.api.quantity import Quantity
from topmast_operator.api.times import to_unix

EnvironmentValue = str | Mapping[str, Any]  # a text, or what Kubernetes calls `valueFrom`
Key = tuple[str, str]  # namespace and name of a model


@dataclass(frozen=True)
class Accelerator:
    resource: str
    count: int


@dataclass(frozen=True)
class Engine:
    image: str | None
    dtype: str
    max_model_len: int | None
    max_num_seqs: int | None
    kv_cache_bytes: str | int | None
    extra_args: tuple[str, ...]
    env: tuple[tuple[str, EnvironmentValue], ...]


@dataclass(frozen=True)
class Resources:
    """What one replica gets. `cpu`, `memory` and `ephemeral_storage` are limits, and requests too where `requests`
    names no other; `extended` are whole devices by resource name, beside the accelerator."""

    accelerator: Accelerator | None
    cpu: Quantity | None
    memory: Quantity | None
    ephemeral_storage: Quantity | None
    requests: Mapping[str, Quantity]  # of cpu and memory
    extended: Mapping[str, int]


@dataclass(frozen=True)
class Placement:
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...]
    priority_class_name: str | None


@dataclass(frozen=True)
class Autoscaling:
    min_replicas: int
    max_replicas: int
    hold_s: float
    target_utilization: float


@dataclass(frozen=True)
class Sleep:
    """The model sleeps after `idle_s` without a request, and a call wakes it."""

    idle_s: float


@dataclass(frozen=True)
class RolloutPolicy:
    """How a new revision takes the place of the old one. `strategy` is a word of the schema."""

    strategy: str
    surge_wait_s: float
    progress_deadline_s: float
    history: int
    paused: bool


@dataclass(frozen=True)
class Model:
    """One LLMDeployment. `status` is what a pass of the operator wrote earlier: its memory across restarts.

    `called_unix_s` is when somebody last called a model that may sleep; it is written by the call, not by a pass.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    retry: str
    source: str
    engine: Engine
    resources: Resources
    placement: Placement
    replicas: int
    suspend: bool
    autoscaling: Autoscaling | None
    sleep: Sleep | None
    drain_timeout_s: int
    rollout: RolloutPolicy
    restart_at: str | None
    status: Mapping[str, Any]
    called_unix_s: float | None = None
    operator: Mapping[str, str] = field(default_factory=dict)  # status.operator: whose it is, and who asked for it
    pod: PodSettings = field(default_factory=dict)  # in normal form; its variables are in engine.env
    scaled_by: str = ""  # who owns spec.replicas by the scale subresource; empty: nobody does
    aliases: tuple[str, ...] = ()  # further names by which callers of the gateway may ask for it
    fallbacks: tuple[Key, ...] = ()  # who answers while it cannot, in this order

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def parse(body: Mapping[str, Any]) -> Model:
    """An LLMDeployment from its JSON. KeyError when a required field is missing, which the schema rules out."""
    meta, spec = body["metadata"], body["spec"]
    engine, resources, placement = spec["engine"], spec["resources"], spec["placement"]
    pod = dict(spec.get("pod", {}))
    accelerator, autoscaling, sleep = resources.get("accelerator"), spec.get("autoscaling"), spec.get("sleep")
    status = dict(body.get("status", {}))
    called = status.pop("wake", {}).get("calledAt")
    operator = status.pop("operator", {})
    return Model(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta["generation"],
        retry=meta.get("annotations", {}).get(ANNOTATION_RETRY, ""),
        source=spec["model"]["source"],
        engine=Engine(
            image=engine.get("image"),
            dtype=engine["dtype"],
            max_model_len=engine.get("maxModelLen"),
            max_num_seqs=engine.get("maxNumSeqs"),
            kv_cache_bytes=engine.get("kvCacheBytes"),
            extra_args=tuple(engine.get("extraArgs", ())),
            env=_environment(pod.pop("env", ()), engine.get("env", ())),
        ),
        resources=Resources(
            accelerator=Accelerator(accelerator["resource"], accelerator["count"]) if accelerator else None,
            cpu=resources.get("cpu"),
            memory=resources.get("memory"),
            ephemeral_storage=resources.get("ephemeralStorage"),
            requests=resources.get("requests", {}),
            extended=resources.get("extended", {}),
        ),
        placement=Placement(
            node_selector=placement.get("nodeSelector", {}),
            tolerations=tuple(placement.get("tolerations", ())),
            priority_class_name=placement.get("priorityClassName"),
        ),
        replicas=spec["replicas"],
        suspend=spec["suspend"],
        autoscaling=_autoscaling(autoscaling) if autoscaling else None,
        sleep=Sleep(float(sleep["idleSeconds"])) if sleep is not None else None,
        drain_timeout_s=spec["drain"]["timeoutSeconds"],
        rollout=_rollout(spec["rollout"]),
        restart_at=spec.get("restartAt"),
        status=status,
        called_unix_s=to_unix(called) if called else None,
        operator=operator,
        pod=normal(pod),
        scaled_by=_scaled_by(meta.get("managedFields", ())),
        aliases=read_aliases(spec),
        fallbacks=read_fallbacks(meta["namespace"], spec),
    )


def read_aliases(spec: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(spec.get("access", {}).get("aliases", ()))


def read_fallbacks(namespace: str, spec: Mapping[str, Any]) -> tuple[Key, ...]:
    """Of a model in this namespace, which `name` means where no other one is written before it."""
    named = (text.rpartition("/") for text in spec.get("access", {}).get("fallbacks", ()))
    return tuple((of or namespace, name) for of, _, name in named)


def _scaled_by(managed: Iterable[Mapping[str, Any]]) -> str:
    """As the API server notes it with every write; of this one without a time."""
    for entry in managed:
        if entry.get("subresource") == "scale" and "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {}):
            return str(entry.get("manager", "somebody"))
    return ""


def _environment(*layers: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, EnvironmentValue], ...]:
    merged = by_member("name", *layers)
    return tuple(
        (item["name"], plain(item["valueFrom"]) if "valueFrom" in item else item.get("value", "")) for item in merged
    )


def _autoscaling(spec: Mapping[str, Any]) -> Autoscaling:
    return Autoscaling(
        min_replicas=spec["minReplicas"],
        max_replicas=spec["maxReplicas"],
        hold_s=float(spec["scaleDownHoldSeconds"]),
        target_utilization=float(spec["targetUtilization"]),
    )


def _rollout(spec: Mapping[str, Any]) -> RolloutPolicy:
    return RolloutPolicy(
        strategy=spec["strategy"],
        surge_wait_s=float(spec["surgeWaitSeconds"]),
        progress_deadline_s=float(spec["progressDeadlineSeconds"]),
        history=spec["revisionHistoryLimit"],
        paused=spec["paused"],
    )
