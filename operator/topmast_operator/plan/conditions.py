"""Conditions and phase of a model, in words. Each condition is a chain: the first link that has something to say is it.

Available means that somebody answers now; Ready that what answers is what the spec asks for, so not during a rollout.
Reconciling and Stalled are never both true: whoever waits is told either to go on or to give up (kstatus).
"""

from collections.abc import Callable

from topmast_operator.api.conditions import (
    AUTOSCALING_ACTIVE,
    AVAILABLE,
    CAPACITY_AVAILABLE,
    MODEL_AVAILABLE,
    READY,
    RECONCILING,
    STALLED,
    Condition,
)
from topmast_operator.api.names import ANNOTATION_RETRY
from topmast_operator.api.times import to_text
from topmast_operator.plan.accelerator import accelerator_used
from topmast_operator.plan.findings import Finding, Kind
from topmast_operator.plan.health import Health
from topmast_operator.plan.progress import slowest
from topmast_operator.plan.rollout_state import How

Link = Callable[[Health], Condition | None]


def conditions(health: Health) -> list[Condition]:
    """All conditions, in the order in which a human wants to read them."""
    told = [next(found for link in chain if (found := link(health))) for chain in CHAINS]
    of_some = (accelerator_used(health.model, health.pods), health.access_resolved)
    return [*told, *(condition for condition in of_some if condition)]


def phase(health: Health) -> str:
    """One short word or two for `kubectl get`."""
    if health.stalled:
        return "Stalled"
    if health.wanted == 0:
        idle = "Suspended" if health.model.suspend else "Sleeping" if health.asleep else "Scaled to 0"
        return idle if health.present == 0 else "Draining"
    if health.settled:
        return "Ready"
    if health.finding and health.ready_new < health.wanted:
        return "Pending" if health.finding.kind is Kind.CAPACITY else health.finding.reason
    progress = slowest(health.pods)
    if health.waking:
        return f"Waking: {progress.lower()}" if progress else "Waking"
    if progress:
        return progress
    return "Rolling out" if health.present > len(health.pods) else "Starting"


# Ready


def _ready_asleep(health: Health) -> Condition | None:
    if not health.sleep or not health.asleep or health.stalled:
        return None
    # Healthy, also while the last replica finishes what it has: asleep is how such a model is most of the time.
    message = f"No replica runs: {health.sleep.reason}. A request through the gateway wakes the model."
    return Condition(READY, True, "Sleeping", message)


def _ready_unwanted(health: Health) -> Condition | None:
    if health.wanted or health.asleep or health.stalled:
        return None
    if health.present:
        leaving = "1 replica finishes" if health.present == 1 else f"{health.present} replicas finish"
        return Condition(READY, False, "Draining", f"{leaving} what runs, then no replica is left, as asked.")
    why = "spec.suspend is true" if health.model.suspend else "spec.replicas is 0"
    return Condition(READY, True, "NoReplicasWanted", f"No replica runs, as asked: {why}.")


def _ready_stalled(health: Health) -> Condition | None:
    found = health.stalled
    return Condition(READY, False, found.reason, _serving(health) + found.message) if found else None


def _ready_serving(health: Health) -> Condition | None:
    if health.ready_new < health.enough or health.ready_new < health.ready:
        return None
    message = f"{_part(health.ready_new, health.wanted)} ready with revision {health.revision}."
    return Condition(READY, True, "Serving", message)


def _ready_found(health: Health) -> Condition | None:
    found = health.finding
    return Condition(READY, False, found.reason, _serving(health) + found.message) if found else None


def _ready_refused(health: Health) -> Condition | None:
    refusal = health.rollout.refusal
    if refusal is None:
        return None
    message = f"{_serving(health)}Revision {health.revision} waits: {refusal.message}."
    return Condition(READY, False, refusal.reason, message)


def _ready_rolling(health: Health) -> Condition | None:
    if health.ready <= health.ready_new:
        return None
    message = (
        f"{health.ready} of {health.wanted} replicas serve, {health.ready_new} of them with the new revision "
        f"{health.revision}: {health.rollout.reason}."
    )
    return Condition(READY, False, "RollingOut", message)


def _ready_starting(health: Health) -> Condition:
    progress = slowest(health.pods)
    message = f"{_part(health.ready_new, health.wanted)} ready" + (f"; {progress.lower()}." if progress else ".")
    return Condition(READY, False, "Waking" if health.waking else "Starting", message)


# Available


def _available_serving(health: Health) -> Condition | None:
    if not health.ready:
        return None
    old = health.ready - health.ready_new
    message = f"{_part(health.ready, health.wanted)} answering" + (f", {old} with an older revision." if old else ".")
    return Condition(AVAILABLE, True, "Answering", message)


def _available_asleep(health: Health) -> Condition | None:
    if not health.asleep:
        return None
    return Condition(AVAILABLE, True, "Sleeping", "No replica runs; a request through the gateway wakes one and waits.")


def _available_not(health: Health) -> Condition:
    if health.wanted == 0:
        return Condition(AVAILABLE, False, "NoReplicasWanted", "No replica is wanted, so nobody answers.")
    if health.rollout.how in (How.RECREATE, How.ROLLBACK):
        if health.finding and health.finding.kind is Kind.CAPACITY:  # nobody knows for how long
            message = f"No replica answers: {health.finding.message} The gateway holds requests."
            return Condition(AVAILABLE, False, health.finding.reason, message)
        expected = health.rollout.memory and health.rollout.memory.expected_gap_s
        about = f" for about {expected:.0f} s" if expected else ""
        message = f"No replica answers{about}: {health.rollout.reason}. The gateway holds requests."
        return Condition(AVAILABLE, False, str(health.rollout.how), message)
    message = health.finding.message if health.finding else "The first replica is starting."
    return Condition(AVAILABLE, False, health.finding.reason if health.finding else "Starting", message)


# Reconciling and Stalled


def _reconciling_stalled(health: Health) -> Condition | None:
    if not health.stalled:
        return None
    return Condition(RECONCILING, False, "Stalled", "Only a human can help: see Stalled.")


def _reconciling_done(health: Health) -> Condition | None:
    if not health.settled or (health.finding and health.finding.kind is Kind.CONFIG):
        return None
    return Condition(RECONCILING, False, "Done", "The cluster is as the spec asks.")


def _reconciling_rollout(health: Health) -> Condition | None:
    if health.rollout.how is How.NONE:
        return None
    return Condition(RECONCILING, True, str(health.rollout.how), _sentence(health.rollout.reason))


def _reconciling_at_work(health: Health) -> Condition:
    message = f"{_part(health.ready_new, health.wanted)} ready; pods that exist, leaving ones too: {health.present}."
    return Condition(RECONCILING, True, "Progressing", message)


def _stalled_given_up(health: Health) -> Condition | None:
    found = health.stalled
    if found is None or not health.given_up:
        return None
    again = f"kubectl annotate llm {health.model.name} {ANNOTATION_RETRY}=$(date +%s) --overwrite"
    if health.rollout.check:
        goes_on = "A check pod looks whether that is mended, and then it goes on by itself. Or ask for another try"
    else:
        goes_on = "Nothing is tried until the spec changes, or you ask for another try"
    return Condition(STALLED, True, found.reason, f"{found.message} {goes_on}: {again}")


def _stalled_waiting(health: Health) -> Condition | None:
    found = health.stalled
    if found is None:
        return None
    return Condition(STALLED, True, found.reason, f"{found.message} Once that is mended it goes on by itself.")


def _not_stalled(health: Health) -> Condition:
    return Condition(STALLED, False, "NotStalled", "Nothing waits for a human.")


# ModelAvailable


def _model_missing(health: Health) -> Condition | None:
    found = health.finding
    if found is None or found.kind not in (Kind.MODEL, Kind.CLAIM):
        return None
    return Condition(MODEL_AVAILABLE, False, found.reason, found.message)


def _model_loaded(health: Health) -> Condition | None:
    if not health.ready:
        return None
    return Condition(MODEL_AVAILABLE, True, "Loaded", f"{_count(health.ready)} loaded it and generated with it.")


def _model_unknown(health: Health) -> Condition:
    return Condition(MODEL_AVAILABLE, None, "NotLoadedYet", "No replica has loaded the model yet.")


# CapacityAvailable


def _capacity_missing(health: Health) -> Condition | None:
    found = health.finding
    if found is None or found.kind not in (Kind.CAPACITY, Kind.NODES):
        return None
    waiting = [pod for pod in health.pods if pod.scheduled is False]
    if not waiting:
        return Condition(CAPACITY_AVAILABLE, False, found.reason, found.message)
    message = f"{len(waiting)} of {health.wanted} replicas find no node. {_numbers(health)}{found.message}"
    return Condition(CAPACITY_AVAILABLE, False, found.reason, f"{message} {_way_out(health, found)}".rstrip())


def _capacity_in_the_making(health: Health) -> Condition | None:
    waiting = sum(pod.scheduled is False for pod in health.pods)
    if not waiting or health.rollout.how is How.NONE:
        return None
    message = f"{waiting} of {health.wanted} replicas wait for the room of replicas that leave."
    return Condition(CAPACITY_AVAILABLE, None, "MakingRoom", message)


def _capacity_unneeded(health: Health) -> Condition | None:
    if not health.stalled and health.wanted:
        return None
    return Condition(CAPACITY_AVAILABLE, None, "NotNeeded", "No replica is to be placed now.")


def _capacity_unknown(health: Health) -> Condition | None:
    if health.pods and not any(pod.node is None for pod in health.pods):
        return None
    return Condition(CAPACITY_AVAILABLE, None, "NotScheduledYet", "The scheduler has not placed every replica yet.")


def _capacity_there(health: Health) -> Condition:
    return Condition(CAPACITY_AVAILABLE, True, "Placed", f"{_count(len(health.pods))} a node.")


# AutoscalingActive


def _not_autoscaled(health: Health) -> Condition | None:
    if health.autoscaling_reason is not None:
        return None
    message = f"spec.autoscaling is not set: spec.replicas asks for {health.model.replicas}."
    return Condition(AUTOSCALING_ACTIVE, False, "NotConfigured", message)


def _autoscaling_pauses(health: Health) -> Condition | None:
    if health.asleep:
        return Condition(AUTOSCALING_ACTIVE, False, "Sleeping", "The model sleeps, so nothing is scaled.")
    if health.model.suspend:
        return Condition(AUTOSCALING_ACTIVE, False, "Suspended", "spec.suspend is true, so nothing is scaled.")
    return None


def _scaled_by_two(health: Health) -> Condition | None:
    """Somebody writes spec.replicas, as a HorizontalPodAutoscaler, KEDA and kubectl scale do."""
    write = health.overruled
    if write is None:
        return None
    said = f"at {to_text(write.at)} {write.manager} set spec.replicas to {write.replicas} through the scale subresource"
    if write.by_hand:
        reason, remedy = "ScaleIgnored", "set spec.autoscaling.minReplicas or maxReplicas, or remove spec.autoscaling"
    else:
        reason = "ScalingTwice"
        remedy = "remove the HorizontalPodAutoscaler or ScaledObject that scales this model, or spec.autoscaling"
    message = f"{_sentence(said)} Nobody reads it while spec.autoscaling decides: {remedy}."
    return Condition(AUTOSCALING_ACTIVE, True, reason, f"{message} {_sentence(health.autoscaling_reason or '')}")


def _autoscaling(health: Health) -> Condition:
    message = f"{_sentence(health.autoscaling_reason or '')} spec.replicas is not used."
    return Condition(AUTOSCALING_ACTIVE, True, "Scaling", message)


CHAINS: tuple[tuple[Link, ...], ...] = (
    (
        _ready_asleep,
        _ready_unwanted,
        _ready_stalled,
        _ready_serving,
        _ready_found,
        _ready_refused,
        _ready_rolling,
        _ready_starting,
    ),
    (_available_serving, _available_asleep, _available_not),
    (_reconciling_stalled, _reconciling_done, _reconciling_rollout, _reconciling_at_work),
    (_stalled_given_up, _stalled_waiting, _not_stalled),
    (_model_missing, _model_loaded, _model_unknown),
    (_capacity_missing, _capacity_in_the_making, _capacity_unneeded, _capacity_unknown, _capacity_there),
    (_not_autoscaled, _autoscaling_pauses, _scaled_by_two, _autoscaling),
)


def _serving(health: Health) -> str:
    return f"{health.ready} of {health.wanted} replicas serve. "


def _numbers(health: Health) -> str:
    accelerator, room = health.model.resources.accelerator, health.room
    if accelerator is None:
        return ""
    needs = f"A replica needs {accelerator.count} {accelerator.resource}"
    if room is None:
        return f"{needs}. "
    free = f"{room.free} of {room.total} are free on {room.nodes} nodes, {room.largest_free_on_a_node} at most on one"
    held = f" (held by {', '.join(room.holders[:3])})" if room.holders and not room.free else ""
    return f"{needs}; {free}{held}. "


def _way_out(health: Health, found: Finding) -> str:
    if found.kind is Kind.NODES:
        return ""
    if health.model.resources.accelerator:
        return (
            "Add a node with free devices, free some elsewhere, or lower spec.resources.accelerator.count or replicas."
        )
    return "Add a node, lower spec.resources or spec.replicas, or check spec.placement."


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."


def _part(some: int, whole: int) -> str:
    return f"{some} of {whole} {'replica is' if whole == 1 else 'replicas are'}"


def _count(number: int) -> str:
    return f"{number} replica has" if number == 1 else f"{number} replicas have"
