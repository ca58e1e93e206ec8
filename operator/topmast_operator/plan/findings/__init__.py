"""What is wrong, in one sentence with a way out: from the words of scheduler, kubelet, engine and API server.

`POD_CHECKS` is the order in which the causes are looked for: an earlier one hides the later ones, which it explains.
docs/operator.md shows what status tells of each, from the words of a real cluster.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from topmast_operator.api.facts import PodFacts
from topmast_operator.plan.findings import engine, kubelet, scheduler
from topmast_operator.plan.findings.admission import refused_pods, refused_write
from topmast_operator.plan.findings.engine import last_end
from topmast_operator.plan.findings.finding import Finding, Kind, Patience, Severity

__all__ = [
    "POD_CHECKS",
    "Finding",
    "Kind",
    "Patience",
    "Severity",
    "diagnose",
    "last_end",
    "refused_pods",
    "refused_write",
    "worst",
]

POD_CHECKS: tuple[Callable[[PodFacts, Patience], Finding | None], ...] = (
    scheduler.gated,
    scheduler.claim_is_missing,
    scheduler.claim_is_not_bound,
    scheduler.claim_is_elsewhere,
    scheduler.no_node_takes_it,
    scheduler.no_room,
    kubelet.failed_as_a_whole,
    kubelet.image_name_is_invalid,
    kubelet.image_cannot_be_pulled,
    kubelet.container_cannot_be_made,
    kubelet.volume_does_not_mount,
    kubelet.sandbox_cannot_be_made,
    engine.engine_ended,
    engine.drained_by_others,
    engine.nothing_moves,
)


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
