"""Causes x capacities x moments: whatever keeps a successor from starting, what serves is not taken away for it.

Ten thousand sequences, each drawn from its number alone: a failure names it, and `show(number)` prints its rounds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import pytest
from operatorlab.town import CAUSES, Setting, Town

from topmast_operator.plan import give_way
from topmast_operator.plan.give_way import CHECKS, Check
from topmast_operator.plan.rollout_state import How, Phase

SEQUENCES = int(os.environ.get("SEQUENCES", "10000"))
MOST_ROUNDS = 160


class Broken(AssertionError):
    """A promise was broken, in the sequence of this number."""


def live(seed: int) -> Town:
    """One sequence to its end, with every promise looked at in every round."""
    town = Town(Setting.draw(seed))
    setting = town.setting
    began = town.facts.now
    still = 0
    for _ in range(MOST_ROUNDS):
        before, ready_before, checked_before = town.written, town.ready(), town.facts.check
        decided = town.step()
        ready = town.ready()
        if setting.outsider is None and decided.failed and decided.failed.finding.reason == "RoomTaken":
            raise Broken(f"{seed}: nobody has taken any room ({setting})")
        _capacity_holds(town, before, ready, ready_before)
        if ready < setting.wanted and ready < ready_before and town.round > setting.old_broken_until:
            _was_announced(town, before, checked_before)
            waited = town.facts.now - began
            if (
                setting.strategy != "Surge"
                and decided.rollout.phase is Phase.SWAPPING
                and waited < setting.surge_wait_s
            ):
                raise Broken(f"{seed}: made way after {waited} s of {setting.surge_wait_s}")
        still = still + 1 if town.quiet and ready >= setting.wanted else 0
        if still > 12 and not _amiss(town):
            return town
    if wrong := _amiss(town):
        raise Broken(f"{seed}: {wrong} ({setting})")
    return town


def _capacity_holds(town: Town, before: object, ready: int, ready_before: int) -> None:
    setting = town.setting
    if ready < setting.wanted - 1:
        raise Broken(f"{setting.seed}: {ready} of {setting.wanted} serve ({setting})")
    # Surge takes nothing away; neither does Replace from a model with one replica. (A broken replica serves nobody.)
    careful = setting.strategy == "Surge" or (setting.strategy == "Replace" and setting.wanted == 1)
    if careful and not setting.old_broken_until and ready < setting.wanted:
        raise Broken(f"{setting.seed}: strategy {setting.strategy} lowered capacity ({setting})")


def _was_announced(town: Town, before: object, check: object) -> None:
    """The plan stood in status, and what can be proven without the room had been proven."""
    assert isinstance(before, dict)
    told = before.get("rollout", {})
    if told.get("phase") not in ("Announced", "Swapping", "Returning"):
        raise Broken(f"{town.setting.seed}: a replica left and status said {told}")
    proven = any(item.proven for item in town.facts.revisions if item.revision == town.new_name)
    if told["phase"] == "Announced" and not proven and getattr(check, "phase", "") != "Succeeded":
        raise Broken(f"{town.setting.seed}: a replica left for a revision that was not checked")


def _amiss(town: Town) -> str:
    """What is wrong with the end of a sequence: everybody serves, and status tells why it is not the new revision."""
    setting, cause = town.setting, town.setting.cause
    assert town.last is not None
    rolled = town.last.rollout
    if town.ready() < setting.wanted:
        return f"{town.ready()} of {setting.wanted} serve in the end"
    if cause.name == "none" or not town.lasting or town.ready(town.new_name) >= setting.wanted:
        return ""
    # Where it is room alone that is short, both revisions may share what there is.
    if town.ready(town.old_name) < setting.wanted and cause.name not in ("needs more", "quota"):
        return "the last good revision does not serve"
    told = {finding.reason for finding in town.last.situation.findings}
    told |= {town.last.failed.finding.reason} if town.last.failed else set()
    told |= {rolled.refusal.reason} if rolled.refusal else set()
    if setting.grows and rolled.refusal and rolled.refusal.reason == "OthersNotReady":
        return ""  # nothing has made way yet, so nothing is known of the cause
    if rolled.how is How.WAIT and cause.check and rolled.refusal and rolled.refusal.check != cause.check:
        return f"{rolled.refusal.check} refused and not {cause.check}"
    if cause.reasons and not told & {*cause.reasons, "RoomTaken", "WaitsForRoom", "WaitsForNode"}:
        return f"status tells {told} and not {cause.reasons}"
    return ""


def _part(bounds: tuple[int, int]) -> list[str]:
    broken = []
    for seed in range(*bounds):
        try:
            live(seed)
        except Broken as error:
            broken.append(str(error))
    return broken


@pytest.mark.timeout(1200)  # under a minute on two quiet cores, and cores are not always quiet
def test_no_cause_costs_what_serves() -> None:
    """`_capacity_holds`, `_was_announced` and `_amiss` say what is asked."""
    step = SEQUENCES // 20
    parts = [(first, first + step) for first in range(0, SEQUENCES, step)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        broken = [line for found in pool.map(_part, parts) for line in found]
    assert not broken, f"{len(broken)} of {SEQUENCES}: " + "\n".join(broken[:10])


@contextmanager
def without(check: Check) -> Iterator[None]:
    give_way.CHECKS = tuple(item for item in CHECKS if item is not check)
    try:
        yield
    finally:
        give_way.CHECKS = CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_without_any_one_check_a_promise_breaks(check: Check) -> None:
    causes = [number for number, cause in enumerate(CAUSES) if cause.check in ("", check.__name__)]
    with without(check), pytest.raises(Broken):
        for turn in range(400):
            for number in causes:
                live(turn * len(CAUSES) + number)


def show(seed: int) -> None:
    """Prints one sequence: for whoever wants to know why it broke."""
    town = Town(Setting.draw(seed))
    print(town.setting)
    for _ in range(MOST_ROUNDS):
        decided = town.step()
        rolled = decided.rollout
        print(town.round, town.ready(town.old_name), town.ready(town.new_name), rolled.how, rolled.phase, rolled.reason)
