"""The check pod: what it has proven. It runs a revision's image, mounts its volumes and reads its model's files.

It asks for no accelerator, so it fits beside the replica that will make way, and it must run on a node of the model.
"""

from dataclasses import dataclass, replace

from topmast_operator.api.facts import Facts
from topmast_operator.plan.findings import Finding, Kind, Patience, Severity, diagnose, last_end

UNKNOWN_COMMAND = "there is no command 'check'"  # an engine of before `topmast check`


@dataclass(frozen=True)
class CheckResult:
    passed: bool = False
    finding: Finding | None = None
    node: str | None = None
    since_unix_s: float = 0.0  # when the pod was made


def judge(facts: Facts, revision: str) -> CheckResult:
    """What the check pod of this revision says so far; an empty verdict when there is none."""
    pod = facts.check
    if pod is None or pod.revision != revision or pod.deleting:
        return CheckResult()
    if pod.phase == "Succeeded":
        return CheckResult(passed=True, node=pod.node, since_unix_s=pod.created_unix_s)
    ended = pod.terminated or pod.last_terminated
    if ended and UNKNOWN_COMMAND in ended.message:
        # An older image: that it was pulled and its volumes were mounted is all that can be proven.
        return CheckResult(passed=True, node=pod.node, since_unix_s=pod.created_unix_s)
    patience = Patience(facts.now, False, facts.model.rollout.progress_deadline_s)
    found = diagnose(replace(pod, ready=False, engine=None), patience)
    if found is None and ended and ended.exit_code:
        found = last_end(replace(pod, last_terminated=ended))
    if found and found.kind is Kind.PROGRESS:
        message = f"The check of the new revision (pod {pod.name}) does not end. See kubectl logs {pod.name}."
        found = replace(found, reason="CheckStandsStill", message=message)
    if found and found.kind is Kind.CAPACITY and pod.scheduled is False:
        found = _no_room_for_a_check(found)
    return CheckResult(finding=found, node=pod.node, since_unix_s=pod.created_unix_s)


def superfluous(facts: Facts, wanted: str | None) -> list[tuple[str, str]]:
    """The check pod, when it proves nothing that is asked any more, or was evicted and can prove nothing."""
    pod = facts.check
    if pod is None or pod.deleting or (pod.revision == wanted and pod.phase != "Failed"):
        return []
    return [("Pod", pod.name)]


def _no_room_for_a_check(found: Finding) -> Finding:
    message = (
        f"The check of the new revision finds no room on the model's nodes: {found.message} It needs 10m CPU and 64Mi."
    )
    return replace(found, kind=Kind.NODES, reason="NoRoomToCheck", message=message, severity=Severity.HEALS)
