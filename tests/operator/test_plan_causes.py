"""Every cause that keeps a model from serving: the right condition, reason and sentence, and Stalled when it is due.

The causes are those that a real cluster was recorded with (recorded/), and a few that no pod's status tells.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from operatorlab.by_hand import ByHand, OnTheOnlyGpu, refused
from operatorlab.causes import NEVER, ROWS, THIRD, Row
from operatorlab.causes_table import BEGIN, END, table
from operatorlab.facts import Made, condition, plan
from operatorlab.give_way_table import PAGE
from operatorlab.recordings import Recording, recorded_faults

from topmast_operator.api.facts import Facts
from topmast_operator.plan.findings import Patience, diagnose

DAY_S = 86400.0
# What a reader is told to do, and, where the matter is not his, what will happen.
TO_DO = re.compile(
    r"\b(Add|Check|Choose|Correct|Create|Load|Raise|Rename|Replace|See|Set|Uncordon|Use|Change|add|free|lower|raise|see)\b"
)
HAPPENS = re.compile(r"tried again|waits|takes its place|is replaced|made anew|serves again")

PLACES = ("first", "successor")


def made(row: Row, place: str, waited_s: float) -> Made:
    return plan(facts(row, place, waited_s))


def facts(row: Row, place: str, waited_s: float) -> Facts:
    found: Facts = getattr(row.facts, place)(waited_s)
    return found


def places(row: Row) -> tuple[str, ...]:
    return ("successor",) if isinstance(row.facts, OnTheOnlyGpu) else PLACES


def is_stalled(made: Made) -> bool:
    return bool(condition(made, "Stalled")["status"] == "True")


def old_replicas(facts: Facts, made: Made) -> int:
    """Of the revision that serves, after this pass."""
    (old,) = [item.revision for item in facts.revisions if item.proven]
    return made.plan.replicas[old]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_a_cause_has_its_condition_its_reason_and_a_way_out(row: Row) -> None:
    for place in places(row):
        told = made(row, place, row.long_after_s)
        for kind in {row.condition, "Ready"}:
            found = condition(told, kind)
            assert (found["status"], found["reason"]) == ("False", row.reason), (place, kind, found["message"])
        message = condition(told, row.condition)["message"]
        assert row.words in message and row.remedy in message, message
        assert (
            row.words.partition(". ")[0] in condition(told, "Ready")["message"] or row.condition == "CapacityAvailable"
        )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_every_sentence_says_what_to_do_or_what_will_happen(row: Row) -> None:
    for place in places(row):
        told = made(row, place, row.long_after_s)
        said = condition(told, row.condition)["message"]
        assert TO_DO.search(said) or (not is_stalled(told) and HAPPENS.search(said)), said
        assert not re.search(r"preemption|\.\.\s|\.\.$|  |\. \.", said), said


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_a_human_is_asked_for_when_it_is_due_and_not_before(row: Row) -> None:
    for place in places(row):
        if row.stalled == NEVER:
            assert not any(is_stalled(made(row, place, waited_s)) for waited_s in (25.0, DAY_S)), place
        elif row.stalled == THIRD:
            case = row.facts
            assert not isinstance(case, OnTheOnlyGpu)
            stalled = [is_stalled(plan(getattr(case.ended(times), place)(60.0))) for times in (1, 2, 3)]
            assert stalled == [False, False, True], place
        else:
            assert isinstance(row.stalled, int)
            assert is_stalled(made(row, place, row.stalled)), place
            assert not row.stalled or not is_stalled(made(row, place, row.stalled - 1)), place


@pytest.mark.parametrize("row", [row for row in ROWS if row.case != "room-taken"], ids=lambda row: row.case)
def test_the_revision_that_serves_stays_whatever_the_cause(row: Row) -> None:
    for waited_s in (0.0, 25.0, row.long_after_s):
        found = facts(row, "successor", waited_s)
        told = plan(found)
        serving = {pod.name for pod in found.pods if pod.ready}
        assert old_replicas(found, told) == 1 and len(serving) == 1
        assert not serving & {*told.plan.drain, *(name for _, name in told.plan.delete)}
        assert condition(told, "Available")["status"] == "True"


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.check and isinstance(row.facts, Recording)], ids=lambda row: row.case
)
def test_an_old_revision_does_not_make_way_for_it(row: Row) -> None:
    """On the only GPU: what was recorded is said of the check pod, or of the pods that are not made."""
    assert isinstance(row.facts, Recording)
    place = "checked" if "pod" in row.facts.body else "successor"
    found = facts(row, place, 25.0)
    told = plan(found)
    assert told.status["rollout"]["refusedBy"] == row.check
    assert old_replicas(found, told) == 1
    assert row.words.partition(" (3 times)")[0] in condition(told, "Ready")["message"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_a_revision_that_served_is_never_given_up_for_it(row: Row) -> None:
    if not isinstance(row.facts, Recording) or "pod" not in row.facts.body:
        return
    found = facts(row, "first", row.long_after_s)
    proven = tuple(replace(item, proven=True) for item in found.revisions)
    told = plan(replace(found, revisions=proven))
    assert not is_stalled(told) and set(told.plan.replicas.values()) == {1}
    assert condition(told, "Ready")["reason"] == row.reason


def test_every_recording_has_a_row_and_there_are_enough() -> None:
    assert {row.case for row in ROWS} >= set(recorded_faults())
    assert len(ROWS) >= 25 and len({row.case for row in ROWS}) == len(ROWS)


def test_the_table_in_the_docs_is_made_from_the_causes() -> None:
    inside = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip()
    assert inside == table(), "run: PYTHONPATH=tests/operator python -m operatorlab.causes_table"


@pytest.mark.parametrize("status", [409, 429, 500, 503])
def test_what_the_api_server_refuses_in_passing_is_tried_again(status: int) -> None:
    told = plan(ByHand(facts=refused(status, "not now")).first(0.0))
    assert condition(told, "Ready")["reason"] == "ApplyFailed" and not is_stalled(told)


@pytest.mark.parametrize("row", [row for row in ROWS if row.stalled == THIRD], ids=lambda row: row.case)
def test_a_pod_that_is_well_again_or_leaves_is_no_finding(row: Row) -> None:
    (sick,) = facts(row, "first", 60.0).pods
    patience = Patience(now=sick.created_unix_s + 60, proven=False, deadline_s=600)
    assert diagnose(sick, patience) is not None
    assert diagnose(replace(sick, ready=True), patience) is None
    assert diagnose(replace(sick, deleting=True), patience) is None


# Kubernetes before 1.35 said the same in other words.
OLDER = (
    ("1 node(s) had volume node affinity conflict. preemption: not helpful.", "ClaimInUse"),
    ("1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }. preemption: none", "NoSuitableNode"),
    ('persistentvolumeclaim "weights" not found. preemption: 0/1 nodes: 1 not helpful.', "ClaimNotFound"),
    ('persistentvolumeclaim "weights" is being deleted. preemption: none', "ClaimNotFound"),
    ("pod has unbound immediate PersistentVolumeClaims. preemption: 0/1 nodes: 1 not helpful.", "ClaimNotBound"),
    ("1 node(s) didn't match pod anti-affinity rules. preemption: 1 No preemption victims found", "Unschedulable"),
)


@pytest.mark.parametrize(("said", "reason"), OLDER)
def test_older_words_of_the_scheduler_are_understood(said: str, reason: str) -> None:
    (row,) = [row for row in ROWS if row.case == "cordoned"]
    found = facts(row, "first", 25.0)
    waiting = replace(found.pods[0], unschedulable_message=f"0/1 nodes are available: {said}")
    ready = condition(plan(replace(found, pods=(waiting,))), "Ready")
    assert ready["reason"] == reason and "preemption" not in ready["message"]


MIXED: tuple[tuple[str, str], ...] = (
    ("1 Insufficient nvidia.com/gpu, 1 node(s) were unschedulable", "Unschedulable"),
    ("1 node(s) had untolerated taint(s), 1 node(s) were unschedulable", "NoSuitableNode"),
    ("1 Insufficient cpu, 1 node(s) didn't match PersistentVolume's node affinity", "ClaimInUse"),
)


@pytest.mark.parametrize(("said", "reason"), MIXED)
def test_of_two_nodes_the_one_where_room_may_come_counts(said: str, reason: str) -> None:
    (row,) = [row for row in ROWS if row.case == "cordoned"]
    found = facts(row, "first", DAY_S)
    waiting = replace(found.pods[0], unschedulable_message=f"0/2 nodes are available: {said}.")
    told = plan(replace(found, pods=(waiting,)))
    assert condition(told, "Ready")["reason"] == reason
    assert is_stalled(told) is (reason == "NoSuitableNode")
