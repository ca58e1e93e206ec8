"""Everything about a model that its conditions and its phase are told from: counts, the rollout, and what is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

from topmast_operator.api.conditions import Condition
from topmast_operator.api.facts import PodFacts, Room
from topmast_operator.api.resource import Model
from topmast_operator.plan.findings import Finding
from topmast_operator.plan.overruled import Overruled
from topmast_operator.plan.rollout_state import Phase, Rollout
from topmast_operator.plan.sleep import SleepPhase, SleepState


@dataclass(frozen=True)
class Health:
    """Counts are pods that stay. `finding` is the one to tell first; `given_up`: nothing is tried because of it."""

    model: Model
    revision: str
    wanted: int
    ready: int  # over all revisions
    ready_new: int  # of the wanted revision
    present: int  # pods that exist, leaving ones too, but not those that a lost node keeps for ever
    pods: Sequence[PodFacts]  # of the wanted revision
    rollout: Rollout
    finding: Finding | None
    given_up: bool
    room: Room | None
    autoscaling_reason: str | None
    overruled: Overruled | None = None  # a write of spec.replicas, while spec.autoscaling decides
    sleep: SleepState | None = None  # only of a model that may sleep
    access_resolved: Condition | None = None  # only of a model with aliases or fallbacks

    @property
    def settled(self) -> bool:
        """Nothing more is to be done for this spec. What autoscaling adds or takes is no change of the spec."""
        if self.model.autoscaling and self.wanted:
            return self.ready_new >= self.enough and self.ready_new >= self.ready and self.present == len(self.pods)
        return self.ready_new >= self.wanted and self.present == self.wanted

    @property
    def returning(self) -> bool:
        """The last good revision is on its way back: callers are held for it, and nobody is told to give up yet."""
        return self.rollout.phase is Phase.RETURNING and self.ready < self.wanted

    @property
    def stalled(self) -> Finding | None:
        """What waits for a human."""
        return self.finding if self.finding and self.finding.final and not self.returning else None

    @property
    def asleep(self) -> bool:
        return self.sleep is not None and self.sleep.asleep

    @property
    def waking(self) -> bool:
        return self.sleep is not None and self.sleep.state is SleepPhase.WAKING

    @property
    def enough(self) -> int:
        """Replicas that make the model Ready: with autoscaling, one that starts for more load lowers nothing."""
        scaling = self.model.autoscaling
        return min(self.wanted, scaling.min_replicas) if scaling else self.wanted
