"""Each check of giving way: what it refuses, in which words, and before which other one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from operatorlab.give_way_table import BEGIN, END, table

from topmast_operator.api.facts import QuotaFacts
from topmast_operator.plan.findings import Finding, Kind, Severity
from topmast_operator.plan.give_way import CHECKS, Amounts, Strategy, Swap, first_refusal

GPU = Amounts({"nvidia.com/gpu": "1", "cpu": "4"}, {})
GOOD = Swap(
    strategy=Strategy.AUTO,
    proven=False,
    findings=(),
    checked=True,
    old=GPU,
    new=GPU,
    wanted=1,
    ready=1,
    leaving_is_ready=True,
)


def found(kind: Kind, reason: str) -> Finding:
    return Finding(kind, reason, f"{reason} in words. A remedy.", Severity.HUMAN)


# Check by check: the smallest change of a good swap that it refuses, and a part of its sentence.
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "its_image_can_be_pulled": ({"findings": found(Kind.IMAGE, "ImagePull")}, "ImagePull", "A remedy"),
    "its_claim_can_be_mounted": ({"findings": found(Kind.CLAIM, "ClaimNotFound")}, "ClaimNotFound", "A remedy"),
    "its_container_can_be_made": ({"findings": found(Kind.CONFIG, "ContainerConfig")}, "ContainerConfig", "A remedy"),
    "its_files_are_good": ({"findings": found(Kind.MODEL, "ModelCorrupt")}, "ModelCorrupt", "A remedy"),
    "it_does_not_crash": ({"findings": found(Kind.CRASH, "OutOfMemory")}, "OutOfMemory", "A remedy"),
    "it_moves": ({"findings": found(Kind.PROGRESS, "CheckStandsStill")}, "CheckStandsStill", "A remedy"),
    "a_node_takes_it": ({"findings": found(Kind.NODES, "NoSuitableNode")}, "NoSuitableNode", "A remedy"),
    "pods_are_allowed": (
        {"pods_refused": "violates PodSecurity"},
        "PodsForbidden",
        "Kubernetes refuses to create pods: violates PodSecurity. Correct spec.pod",
    ),
    "the_quota_allows_it": (
        {"quotas": (QuotaFacts("gpus", {"requests.cpu": "3"}, {"requests.cpu": "4"}),)},
        "QuotaTooSmall",
        "the quota gpus allows 3 requests.cpu and 4 are used: the new revision needs 4 and an old replica frees 4",
    ),
    "it_fits_into_the_room_that_leaves": (
        {"new": Amounts({"nvidia.com/gpu": "1", "cpu": "4", "memory": "1Gi"}, {})},
        "NeedsMoreRoom",
        "needs more memory (1Gi, not none) than an old replica would free",
    ),
    "the_strategy_allows_a_gap": (
        {"strategy": Strategy.SURGE},
        "WaitsForRoom",
        "spec.rollout.strategy is Surge: it waits for room",
    ),
    "a_new_node_was_waited_for": (
        {"surge_left_s": 12.0},
        "WaitsForNode",
        "a new node is waited for, at most 20 s more",
    ),
    "it_was_proven_without_its_room": ({"checked": False}, "Checking", "a pod without an accelerator checks"),
    "the_others_serve": ({"wanted": 2}, "OthersNotReady", "1 of 2 replicas serve"),
    "the_plan_is_announced": ({"announced": False}, "Announcing", "stands in status before anything is taken away"),
}


def with_faults(*names: str) -> Swap:
    """A swap with the faults of these checks together."""
    swap = GOOD
    for name in names:
        change = dict(REFUSED[name][0])
        if "findings" in change:
            change["findings"] = (*swap.findings, change["findings"])
        swap = replace(swap, **change)
    return swap


def test_a_good_successor_gets_its_room() -> None:
    assert first_refusal(GOOD) is None


def test_every_check_has_its_line_here() -> None:
    assert list(REFUSED) == [check.__name__ for check in CHECKS]


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_check_refuses_and_in_which_words(name: str) -> None:
    _, reason, words = REFUSED[name]
    refusal = first_refusal(with_faults(name))
    assert refusal is not None and (refusal.check, refusal.reason) == (name, reason)
    assert words in refusal.message


@pytest.mark.parametrize(("first", "second"), list(pairwise(REFUSED)))
def test_of_two_neighbours_the_earlier_one_is_told(first: str, second: str) -> None:
    refusal = first_refusal(with_faults(second, first))
    assert refusal is not None and refusal.check == first


def test_of_two_findings_of_a_kind_the_graver_is_told() -> None:
    mild, grave = found(Kind.IMAGE, "ImagePull"), replace(found(Kind.IMAGE, "InvalidImage"), severity=Severity.FINAL)
    for order in ((mild, grave), (grave, mild)):
        refusal = first_refusal(replace(GOOD, findings=order))
        assert refusal is not None and refusal.finding == grave


def test_room_is_compared_by_amount_and_by_place() -> None:
    for new, refused in (
        (Amounts({"nvidia.com/gpu": "1", "cpu": "4000m"}, {}), False),
        (Amounts({"nvidia.com/gpu": "1", "cpu": "4001m"}, {}), True),
        (Amounts({"nvidia.com/gpu": "1"}, {}), False),
        (Amounts({"nvidia.com/gpu": "2", "cpu": "1"}, {}), True),
        (Amounts(GPU.requests, {"nodeSelector": {"zone": "b"}}), True),
    ):
        assert (first_refusal(replace(GOOD, new=new)) is not None) is refused


@pytest.mark.parametrize(("hard", "used", "refused"), [("1", "1", False), ("1", "2", True), ("2", "2", False)])
def test_a_quota_counts_what_the_old_replica_frees(hard: str, used: str, refused: bool) -> None:
    for key in ("requests.nvidia.com/gpu", "nvidia.com/gpu"):
        swap = replace(GOOD, quotas=(QuotaFacts("q", {key: hard}, {key: used}),))
        assert (first_refusal(swap) is not None) is refused


def test_a_quota_on_what_nobody_asks_for_refuses_nothing() -> None:
    quotas = (QuotaFacts("q", {"requests.memory": "0", "pods": "0"}, {"requests.memory": "0", "pods": "0"}),)
    assert first_refusal(replace(GOOD, quotas=quotas)) is None


def test_a_quota_that_is_full_is_no_policy_that_forbids() -> None:
    assert first_refusal(replace(GOOD, pods_refused="pods is forbidden: exceeded quota: gpus")) is None


def test_replace_takes_one_of_several_and_never_the_only_replica() -> None:
    assert first_refusal(replace(GOOD, strategy=Strategy.REPLACE, wanted=2, ready=2)) is None
    refusal = first_refusal(replace(GOOD, strategy=Strategy.REPLACE))
    assert refusal is not None and refusal.check == "the_strategy_allows_a_gap"
    assert first_refusal(replace(GOOD, strategy=Strategy.RECREATE)) is None


def test_a_proven_revision_needs_no_check() -> None:
    assert first_refusal(replace(GOOD, checked=False, proven=True)) is None


def test_a_replica_that_does_not_serve_may_leave_although_others_are_missing() -> None:
    assert first_refusal(replace(GOOD, wanted=2, leaving_is_ready=False)) is None


def test_the_table_in_the_docs_is_made_from_the_list() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operator.md").read_text()
    inside = page.partition(BEGIN)[2].partition(END)[0].strip()
    rows = {name: first_refusal(with_faults(name)) for name in REFUSED}
    assert inside == table(rows), "run: python tests/operator/operatorlab/give_way_table.py --write"
