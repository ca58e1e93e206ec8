"""Whether the wanted revision is given up, why, and until when: the record that its Deployment carries.

A record ends with another spec, with the user's word (the retry annotation), when a check pod finds the cause gone, or,
where others had taken the room, after a while.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from topmast_operator.api.facts import Facts, RevisionFacts
from topmast_operator.api.times import to_text, to_unix
from topmast_operator.plan.check import CheckResult
from topmast_operator.plan.findings import Finding, Kind, Patience, Severity, worst
from topmast_operator.plan.findings.scheduler import brief
from topmast_operator.plan.rollout import is_probed
from topmast_operator.plan.rollout_state import Phase, remember

ENOUGH_IN_A_GAP = 2  # equal failures while nobody answers: the third one would come ten or twenty seconds later
ROOM_TAKEN_S = 20.0  # the scheduler needs moments for room that is free
TRY_AGAIN_S = 600.0  # after others had taken the room


@dataclass(frozen=True)
class Failure:
    """`since_unix_s` is when the revision was given up."""

    finding: Finding
    since_unix_s: float


def of_target(
    facts: Facts, target: RevisionFacts | None, revision: str, wanted: int, checked: CheckResult
) -> Failure | None:
    """The failure that holds now: recorded earlier, or found by this pass."""
    recorded = _recorded(facts, target)
    if recorded:
        return None if _has_ended(facts, recorded, revision, wanted, checked) else recorded
    pods = facts.pods_of(revision)
    proven = bool(target and target.proven) or any(pod.ready for pod in pods)
    if proven or target is None:
        return None
    found = worst(pods, Patience(facts.now, False, facts.model.rollout.progress_deadline_s))
    good = any(item.proven and item.revision != revision for item in facts.revisions)
    holds_room = any(pod.node is not None and not pod.ready for pod in pods)
    if found and found.final and (found.gives_up or (good and holds_room)):
        return Failure(found, facts.now)
    if found and good and found.times >= ENOUGH_IN_A_GAP and not any(pod.ready for pod in facts.pods):
        return Failure(replace(found, severity=Severity.FINAL), facts.now)
    if good and (taken := _room_is_taken(facts, revision, wanted)):
        return Failure(taken, facts.now)
    return None


def records(facts: Facts, revision: str, failed: Failure | None) -> dict[str, Mapping[str, str]]:
    """The records as the Deployments carry them. Those of other revisions stay."""
    kept = {item.revision: item.failed for item in facts.revisions if item.failed and item.revision != revision}
    if failed:
        kept[revision] = {
            "kind": str(failed.finding.kind),
            "reason": failed.finding.reason,
            "message": failed.finding.message,
            "retry": facts.model.retry,
            "at": to_text(failed.since_unix_s),
            "final": "true" if failed.finding.final else "false",
            "permanent": "true" if failed.finding.permanent else "false",
        }
    return {name: record for name, record in kept.items() if record}


def _recorded(facts: Facts, target: RevisionFacts | None) -> Failure | None:
    record = target.failed if target else None
    if not record or record.get("retry", "") != facts.model.retry:
        return None
    severity = Severity.HEALS if record.get("final") == "false" else Severity.FINAL
    permanent = record.get("permanent", "true") == "true"
    finding = Finding(Kind(record["kind"]), record["reason"], record["message"], severity, permanent=permanent)
    return Failure(finding, to_unix(record["at"]) if "at" in record else 0.0)


def _has_ended(facts: Facts, recorded: Failure, revision: str, wanted: int, checked: CheckResult) -> bool:
    serving = sum(pod.ready and not pod.draining for pod in facts.pods if pod.revision != revision)
    if serving < wanted:
        return False
    if is_probed(recorded.finding):
        return checked.passed and checked.since_unix_s >= recorded.since_unix_s
    return not recorded.finding.final and facts.now >= recorded.since_unix_s + TRY_AGAIN_S


def _room_is_taken(facts: Facts, revision: str, wanted: int) -> Finding | None:
    """An old replica has left, and somebody else's pods hold what it had."""
    memory = remember(facts.model.status)
    if memory is None or memory.revision != revision or memory.phase is not Phase.SWAPPING:
        return None
    if any(pod.node for pod in facts.pods_of(revision)) or any(pod.deleting for pod in facts.pods):
        return None  # it has got what was left to it, or what leaves has not left yet
    present = sum(not pod.overdue(facts.now) and not pod.ended for pod in facts.pods)
    waiting = [
        pod
        for pod in facts.pods_of(revision)
        if pod.scheduled is False and facts.now - pod.created_unix_s >= ROOM_TAKEN_S
    ]
    if not waiting or present > wanted:
        return None
    holders = facts.room.holders[:3] if facts.room else ()
    by = f" by {', '.join(holders)}" if holders else ""
    message = (
        f"The room that an old replica left was taken{by}: {brief(waiting[0].unschedulable_message)}. The old "
        f"revision serves again as soon as there is room; the new one is tried again {TRY_AGAIN_S:.0f} s later."
    )
    return Finding(Kind.CAPACITY, "RoomTaken", message)
