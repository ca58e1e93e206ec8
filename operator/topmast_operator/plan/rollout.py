"""How a model gets from the revisions that run to the one that the spec asks for, one step per pass.

A new replica beside the old ones where there is room; else one old replica makes way, when `give_way.CHECKS` agree.
A revision that was never proven costs the proven ones one replica at most, and gives it back when it fails.
No Deployment that served is deleted before its successor was Ready itself.
"""

from collections.abc import Sequence
from dataclasses import replace

from topmast_operator.plan.findings import Finding, Kind
from topmast_operator.plan.give_way import Strategy, Swap, first_refusal
from topmast_operator.plan.rollout_state import How, Phase, RevisionView, Rollout, RolloutMemory, Situation


def plan_rollout(now: Situation) -> Rollout:
    """The replicas of every revision for now, which Deployments may go, and why."""
    target, others = now.target, now.others
    active = [other for other in others if other.proven or other.ready > 0]
    active = [other for other in active if other.replicas > 0 or other.ready > 0]
    good = last_good(others)
    if now.wanted == 0:
        return Rollout(_only(now, 0), _history(now, target.proven), How.NONE, Phase.NONE, "no replica is wanted")
    if now.failed:
        return _return(now, good)
    if now.paused and good and not (target.proven and not active):
        return _hold(now, active, good)
    if not active:
        return _alone(now, good)
    return _remembered(now, _swap_on(now, active, good) if _is_swapping(now, active) else _begin(now, active, good))


def last_good(others: Sequence[RevisionView]) -> RevisionView | None:
    """The revision to fall back to: one that serves, else the latest that ever did."""
    proven = [other for other in others if other.proven or other.ready > 0]
    return max(proven, key=lambda other: (other.ready > 0, other.created), default=None)


def is_probed(failed: Finding) -> bool:
    """Whether a check pod can find out that the cause has gone: then the rollout goes on by itself."""
    return failed.kind in (Kind.IMAGE, Kind.CONFIG, Kind.CLAIM) and not failed.permanent


def _alone(now: Situation, good: RevisionView | None) -> Rollout:
    """No other revision serves or is kept: the target gets everything."""
    target = now.target
    finished = target.proven and target.ready >= now.wanted
    gone = _history(now, finished)
    if good and not target.proven:
        reason = f"the old replicas have left, revision {target.name} is starting in their room"
        steps = _steps(now, How.RECREATE)
        plan = Rollout(_in_room(now, now.wanted), gone, How.RECREATE, Phase.SWAPPING, reason, steps=steps)
        return _remembered(now, plan)
    return Rollout(_only(now, now.wanted), gone, How.NONE, Phase.NONE, "only one revision runs")


def _is_swapping(now: Situation, active: Sequence[RevisionView]) -> bool:
    """An old replica has made way for this target already, or the plan for it stands in status."""
    memory = now.memory
    if memory is None or memory.revision != now.target.name or memory.phase is not Phase.SWAPPING:
        return False
    return sum(other.replicas for other in active) + now.target.ready < now.wanted or now.target.proven


def _begin(now: Situation, active: Sequence[RevisionView], good: RevisionView | None) -> Rollout:
    """Surge where that is possible; else see whether an old replica may make way."""
    target = now.target
    crowded = target.crowded or bool(now.pods_refused) or (now.room_for_one is False and target.placed <= target.ready)
    makes_way_first = now.strategy in (Strategy.REPLACE, Strategy.RECREATE) and not (
        now.strategy is Strategy.REPLACE and now.wanted == 1
    )
    if not crowded and not makes_way_first:
        reason = "a new replica becomes ready before an old one leaves"
        return _shared(now, active, good, gives=0, how=How.SURGE, phase=Phase.SURGING, reason=reason)
    announced = now.memory is not None and (now.memory.revision, now.memory.phase) == (target.name, Phase.ANNOUNCED)
    swap = _swap(now, active, announced=announced)
    refusal = first_refusal(swap)
    how = How.RECREATE if now.wanted == 1 else How.REPLACE
    if refusal is None:
        return _swap_on(now, active, good)
    if not crowded and refusal.reason in ("NeedsMoreRoom", "QuotaTooSmall"):
        reason = "the old replica's room is too small and there is other room: a new replica becomes ready first"
        return _shared(now, active, good, gives=0, how=How.SURGE, phase=Phase.SURGING, reason=reason)
    there = target.replicas > target.ready  # a pod that waits is kept: the scheduler may find room for it yet
    if refusal.reason == "Announcing":
        reason = _how_in_words(now, how)
        return _shared(now, active, good, gives=0, how=how, phase=Phase.ANNOUNCED, reason=reason, surges=there)
    surges = there or refusal.reason in ("WaitsForRoom", "WaitsForNode")
    plan = _shared(now, active, good, gives=0, how=How.WAIT, phase=Phase.WAITING, reason=refusal.message, surges=surges)
    return replace(plan, refusal=refusal)


def _swap_on(now: Situation, active: Sequence[RevisionView], good: RevisionView | None) -> Rollout:
    how = How.RECREATE if now.wanted == 1 else How.REPLACE
    # Where others are not ready, one that serves may not leave too: the wanted revision's next step waits for them.
    waits = now.target.proven and _the_next_waits(now, active)
    reason = _how_in_words(now, how)
    return _shared(now, active, good, gives=0 if waits else 1, how=how, phase=Phase.SWAPPING, reason=reason)


def _the_next_waits(now: Situation, active: Sequence[RevisionView]) -> bool:
    """A proven target takes the next room only when nothing else is missing."""
    running = sum(other.replicas for other in active)
    gave = now.wanted - running - now.target.ready > 0
    swap = _swap(now, active, announced=True)
    return not gave and swap.leaving_is_ready and swap.ready < now.wanted


def _swap(now: Situation, active: Sequence[RevisionView], *, announced: bool) -> Swap:
    leaving = min(active, key=lambda other: (other.ready >= other.replicas, other.created))
    waited = now.now - now.memory.started if now.memory and now.memory.revision == now.target.name else 0.0
    return Swap(
        strategy=now.strategy,
        proven=now.target.proven,
        findings=now.findings,
        checked=now.checked,
        old=leaving.amounts,
        new=now.target.amounts,
        wanted=now.wanted,
        ready=now.target.ready + sum(other.ready for other in active),
        leaving_is_ready=leaving.ready >= leaving.replicas,
        quotas=now.quotas,
        pods_refused=now.pods_refused,
        surge_left_s=now.surge_wait_s - waited,
        announced=announced,
    )


def _shared(
    now: Situation,
    active: Sequence[RevisionView],
    good: RevisionView | None,
    *,
    gives: int,
    how: How,
    phase: Phase,
    reason: str,
    surges: bool = True,
) -> Rollout:
    """`gives` old replicas make way beyond those that ready ones replace; the target grows into what is free."""
    target, wanted = now.target, now.wanted
    running = sum(other.replicas for other in active)
    keep = min(running, max(0, wanted - target.ready - gives))
    if gives and keep == running:
        # Fewer run than are wanted: one that does not serve makes way all the same.
        keep = max(running - gives, min(running, sum(other.ready for other in active)))
    missing = wanted - keep
    if gives:
        # Deletes before creates: a pending pod would make a node autoscaler buy a node that is not needed.
        there = sum(other.pods for other in now.others)
        grown = min(missing, max(target.placed, 0 if there > keep else wanted - there))
    elif phase is Phase.SURGING:
        # A replica of the target that is there already is kept, ready or not, while the surge of one allows it.
        grown = min(wanted, max(missing, target.ready + 1, min(target.replicas, missing + 1)))
    else:
        grown = min(wanted, max(target.ready, wanted - running, target.ready + 1 if surges else 0))
    replicas = {**{other.name: 0 for other in now.others}, **_share(active, keep, good), target.name: grown}
    useless = {other.name for other in now.others if not other.proven and other.ready == 0}
    gone = tuple(other.name for other in now.others if other.pods == 0 and other.name in useless)
    expected = _expected_gap_s(now) if how in (How.RECREATE, How.REPLACE) else None
    return Rollout(
        replicas,
        gone,
        how,
        phase,
        reason,
        check=not target.proven and phase is not Phase.SURGING,
        steps=_steps(now, how),
        expected_gap_s=expected,
    )


def _return(now: Situation, good: RevisionView | None) -> Rollout:
    """The target failed. What of it serves goes on; the last good revision gets the rest of the room."""
    target = now.target
    assert now.failed is not None
    kept = target.ready if target.proven else 0
    replicas = {**{other.name: 0 for other in now.others}, target.name: kept}
    gone = tuple(other.name for other in now.others if other.pods == 0 and not other.proven)
    if good is None:
        reason = f"revision {target.name} cannot start and there is no earlier one"
        return Rollout(replicas, gone, How.NONE, Phase.NONE, reason)
    rest = target.pods + sum(other.pods for other in now.others if other is not good)
    replicas[good.name] = min(now.wanted - kept, max(good.replicas, now.wanted - rest))
    there = good.ready + kept >= now.wanted
    reason = (
        f"revision {target.name} cannot start: revision {good.name} {'keeps serving' if there else 'takes over again'}"
    )
    return _remembered(now, Rollout(replicas, gone, How.ROLLBACK, Phase.RETURNING, reason, check=is_probed(now.failed)))


def _hold(now: Situation, active: Sequence[RevisionView], good: RevisionView) -> Rollout:
    """Paused: nothing changes hands. What is missing is made up by the last good revision."""
    kept = min(now.target.replicas, now.wanted)
    share = _share(active, now.wanted - kept, good)
    share[good.name] = now.wanted - kept - sum(count for name, count in share.items() if name != good.name)
    replicas = {**{other.name: 0 for other in now.others}, **share, now.target.name: kept}
    reason = f"spec.rollout.paused is true: revision {now.target.name} waits"
    return _remembered(now, Rollout(replicas, (), How.PAUSED, Phase.PAUSED, reason))


def _remembered(now: Situation, plan: Rollout) -> Rollout:
    """With the memory for the next pass: when this rollout began, and since when nothing serves."""
    before = now.memory if now.memory and now.memory.revision == now.target.name else None
    ready = now.target.ready + sum(other.ready for other in now.others)
    gap = (before.gap_since if before and before.gap_since else now.now) if ready == 0 else None
    started = before.started if before else now.now
    kept = before.expected_gap_s if before and plan.phase is not Phase.ANNOUNCED else None
    expected = kept if kept is not None else plan.expected_gap_s
    return replace(plan, memory=RolloutMemory(now.target.name, plan.phase, started, gap, expected))


def _how_in_words(now: Situation, how: How) -> str:
    if now.strategy in (Strategy.REPLACE, Strategy.RECREATE):
        why = f"spec.rollout.strategy is {now.strategy}"
    else:
        why = "there is no room for one more replica"
    if how is How.REPLACE:
        return f"{why}: replacing one of {now.wanted} at a time"
    return f"{why}: the old one leaves first, with a gap of one start"


def _steps(now: Situation, how: How) -> tuple[str, ...]:
    """The plan in words, for status. Only of what takes something away."""
    if how not in (How.REPLACE, How.RECREATE):
        return ()
    each = "the replica" if now.wanted == 1 else f"one of {now.wanted} replicas at a time"
    begins = () if now.target.proven else (f"check revision {now.target.name} in a pod without an accelerator",)
    holds = "; requests are held meanwhile" if now.wanted == 1 else ""
    return (
        *begins,
        f"announce and drain {each}{holds}",
        f"start revision {now.target.name} in its room; if it fails, the old revision takes the room back",
    )


def _expected_gap_s(now: Situation) -> float | None:
    """Seconds without a replica. With two or more there is none: one less serves meanwhile."""
    return 0.0 if now.wanted > 1 else now.expected_gap_s


def _in_room(now: Situation, wanted: int) -> dict[str, int]:
    """All for the target, as far as the pods of others have left."""
    free = wanted - sum(other.pods for other in now.others)
    return {**{other.name: 0 for other in now.others}, now.target.name: min(wanted, max(now.target.placed, free))}


def _only(now: Situation, wanted: int) -> dict[str, int]:
    return {**{other.name: 0 for other in now.others}, now.target.name: wanted}


def _history(now: Situation, finished: bool) -> tuple[str, ...]:
    """Deployments without pods that may be deleted: all that never served, and the proven beyond the history."""
    empty = [other for other in now.others if other.pods == 0]
    proven = sorted((other for other in empty if other.proven), key=lambda other: -other.created)
    old = [other.name for other in proven[now.history :]] if finished else []
    return (*(other.name for other in empty if not other.proven), *old)


def _share(active: Sequence[RevisionView], total: int, good: RevisionView | None) -> dict[str, int]:
    """`total` old replicas among the old revisions: the last good one keeps its own first."""
    share: dict[str, int] = {}
    for other in sorted(active, key=lambda other: (other is not good, -other.ready, -other.created)):
        share[other.name] = min(other.replicas, total)
        total -= share[other.name]
    return share
