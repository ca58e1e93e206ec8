"""What a check pod has proven, and when it is of no use any more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from operatorlab.facts import NOW, engine, model, pod, revision

from topmast_operator.api.facts import Facts, PodFacts, Termination
from topmast_operator.plan.check import CheckResult, judge, superfluous
from topmast_operator.plan.findings import Kind, Severity

OF = model()
NAME = pod(OF).revision
OLD_IMAGE = Termination(2, "Error", "topmast: there is no command 'check'")
CORRUPT = Termination(10, "Error", '{"code": "ModelCorrupt", "message": "cut off"}')


def facts(check: PodFacts | None) -> Facts:
    return Facts(OF, NOW, (revision(OF, 0, proven=False),), check=check)


def check(**more: Any) -> PodFacts:
    return replace(pod(OF, ready=False, started_unix_s=NOW - 5), name="m-check", **more)


def test_it_has_passed_when_it_ended_well() -> None:
    assert judge(facts(check(phase="Succeeded")), NAME) == CheckResult(True, None, "n1", NOW - 50)
    assert judge(facts(check()), NAME) == CheckResult(False, None, "n1", NOW - 50)


def test_one_that_is_missing_leaving_or_of_another_revision_says_nothing() -> None:
    nothing = CheckResult()
    assert judge(facts(None), NAME) == nothing
    assert judge(facts(check(phase="Succeeded")), "another") == nothing
    assert judge(facts(check(phase="Succeeded", deleting=True)), NAME) == nothing


@pytest.mark.parametrize("where", ["terminated", "last_terminated"])
def test_an_image_that_knows_no_check_has_been_pulled_all_the_same(where: str) -> None:
    assert judge(facts(check(**{where: OLD_IMAGE})), NAME).passed
    assert not judge(facts(check(**{where: replace(OLD_IMAGE, message="unknown")})), NAME).passed


@pytest.mark.parametrize("where", ["terminated", "last_terminated"])
def test_what_the_check_found_is_told(where: str) -> None:
    found = judge(facts(check(**{where: CORRUPT})), NAME).finding
    assert found is not None and (found.kind, found.reason) == (Kind.MODEL, "ModelCorrupt")
    assert judge(facts(check(**{where: replace(CORRUPT, exit_code=0, message="")})), NAME).finding is None


def test_a_check_that_does_not_end_is_told_as_one() -> None:
    found = judge(facts(check(started_unix_s=NOW - 600)), NAME).finding
    assert found is not None and found.reason == "CheckStandsStill" and "kubectl logs m-check" in found.message
    assert judge(facts(check(started_unix_s=NOW - 599)), NAME).finding is None
    odd = check(ready=True, engine=engine(), started_unix_s=NOW - 600)
    assert judge(facts(odd), NAME).finding is not None, "it serves nobody, whatever it says of itself"


def test_a_check_that_finds_no_room_is_waited_for() -> None:
    waits = check(node=None, scheduled=False, unschedulable_message="0/1 nodes are available: 1 Insufficient cpu.")
    found = judge(facts(waits), NAME).finding
    assert found is not None
    assert (found.kind, found.reason, found.severity) == (Kind.NODES, "NoRoomToCheck", Severity.HEALS)
    gone = judge(facts(check(phase="Failed", ended_reason="Evicted")), NAME).finding
    assert gone is not None and gone.kind is Kind.CAPACITY, "it had a node"


def test_it_goes_when_it_proves_nothing_that_is_asked() -> None:
    gone = [("Pod", "m-check")]
    assert superfluous(facts(None), NAME) == []
    assert superfluous(facts(check(phase="Succeeded")), NAME) == []
    assert superfluous(facts(check(phase="Failed")), NAME) == gone
    assert superfluous(facts(check(phase="Succeeded")), "another") == gone
    assert superfluous(facts(check(phase="Succeeded")), None) == gone
    assert superfluous(facts(check(phase="Succeeded", deleting=True)), None) == []
