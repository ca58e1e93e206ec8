"""Where it is kept that a revision was proven: in the model's status, and on its Deployment with the next write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from operatorlab.facts import model, plan, pod, revision, settled

from topmast_operator.api.facts import Facts, WriteRefused
from topmast_operator.plan.revision import revision_of
from topmast_operator.watch.gather import completed

OF = model()
MARK = "topmast.dev/proven"


def newly_ready(replicas: int = 1) -> Facts:
    """A replica is Ready for the first time."""
    facts = settled(model(replicas=replicas), replicas)
    return replace(facts, revisions=(revision(facts.model, replicas, proven=False),))


def written(facts: Facts) -> list[dict[str, Any]]:
    made = plan(facts).changes
    return [manifest for manifest in (*made.grow, *made.shrink) if manifest["kind"] == "Deployment"]


def test_a_deployment_is_not_written_for_the_mark_alone() -> None:
    facts = newly_ready()
    assert plan(facts).status["revisions"][0]["verdict"] == "Proven"
    assert written(facts) == []


def test_the_next_write_carries_it() -> None:
    facts = newly_ready()
    (more,) = written(replace(facts, model=replace(facts.model, replicas=2)))
    assert more["spec"]["replicas"] == 2 and more["metadata"]["annotations"][MARK] == "true"


def test_a_proven_revision_is_never_called_failed() -> None:
    refused = replace(newly_ready(), refused=WriteRefused(422, "it may not be"))
    row = plan(refused).status["revisions"][0]
    assert row["verdict"] == "Proven" and "it may not be" in row["message"]
    unproven = replace(refused, pods=(pod(OF, ready=False),))
    assert plan(unproven).status["revisions"][0]["verdict"] == "Failed"


def test_the_status_is_believed_for_the_deployment_that_it_names() -> None:
    unmarked = revision(OF, 1, proven=False)
    row = {"name": revision_of(OF), "deployment": unmarked.name, "verdict": "Proven"}
    assert completed(unmarked, replace(OF, status={"revisions": [row]})).proven
    for other in ({**row, "deployment": "m-other"}, {**row, "verdict": "Starting"}, {**row, "verdict": "Failed"}):
        assert not completed(unmarked, replace(OF, status={"revisions": [other]})).proven
    assert completed(revision(OF, 1), OF).proven, "the mark counts by itself"


def test_it_is_never_forgotten_when_the_replicas_are_gone() -> None:
    facts = newly_ready()
    told = replace(facts.model, status=plan(facts).status)
    later = replace(facts, model=told, pods=(pod(told, ready=False),))
    later = replace(later, revisions=tuple(completed(item, told) for item in later.revisions))
    assert plan(later).status["revisions"][0]["verdict"] == "Proven"
