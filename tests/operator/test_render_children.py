"""The children of a model, line by line, and which of them a pass writes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from operatorlab.facts import DEFAULTS, NOW, model, plan, pod, revision, settled

from topmast_operator.api.facts import Facts
from topmast_operator.plan.revision import revision_of
from topmast_operator.render import children
from topmast_operator.render.changes import Changes, changes, target_template
from topmast_operator.render.template import render_template

OF = model(replicas=2)
NAME = revision_of(OF)
LABELS = {
    "app.kubernetes.io/managed-by": "topmast",
    "app.kubernetes.io/name": "topmast-engine",
    "topmast.dev/model": "m",
}
OWNER = {
    "apiVersion": "topmast.dev/v1alpha1",
    "kind": "LLMDeployment",
    "name": "m",
    "uid": "u",
    "controller": True,
    "blockOwnerDeletion": False,
}


def without_digest(manifest: dict[str, Any]) -> dict[str, Any]:
    meta = dict(manifest["metadata"])
    annotations = {key: value for key, value in meta.pop("annotations").items() if key != "topmast.dev/applied"}
    assert len(annotations) == len(manifest["metadata"]["annotations"]) - 1
    return {**manifest, "metadata": {**meta, "annotations": annotations}}


def metadata(name: str, labels: dict[str, str], **annotations: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "ns",
        "labels": labels,
        "ownerReferences": [OWNER],
        "annotations": annotations,
    }


def test_the_deployment_of_a_revision() -> None:
    template = render_template(OF, NAME, DEFAULTS)
    made = without_digest(children.deployment(OF, NAME, template, 2, proven=False, failed=None))
    pinned = made["metadata"]["annotations"]
    assert made == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(f"m-{NAME}", {**LABELS, "topmast.dev/revision": NAME}, **pinned),
        "spec": {
            "replicas": 2,
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": 3600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": {**LABELS, "topmast.dev/revision": NAME}},
            "template": template,
        },
    }
    told = children.deployment(OF, NAME, template, 2, proven=True, failed={"reason": "x"})["metadata"]["annotations"]
    assert told["topmast.dev/proven"] == "true" and told["topmast.dev/failed"] == '{"reason":"x"}'
    assert {"topmast.dev/proven", "topmast.dev/failed"} & pinned.keys() == set()


def test_the_service_of_a_model() -> None:
    assert without_digest(children.service(OF)) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata("m", LABELS),
        "spec": {
            "type": "ClusterIP",
            "selector": LABELS,
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def test_the_budget_of_a_model() -> None:
    assert without_digest(children.disruption_budget(OF)) == {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata("m", LABELS),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": LABELS},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def test_what_differs_is_what_is_lacking_and_not_what_others_added() -> None:
    wanted = children.service(OF)
    assert not children.live_differs(wanted, wanted)
    added = {**wanted, "spec": {**wanted["spec"], "clusterIP": "10.0.0.1"}, "status": {"loadBalancer": {}}}
    assert not children.live_differs(wanted, added)
    assert children.live_differs(wanted, {**wanted, "spec": {**wanted["spec"], "type": "NodePort"}})
    assert children.live_differs(wanted, {**wanted, "metadata": {**wanted["metadata"], "labels": {}}})
    ports = wanted["spec"]["ports"]
    for other in ([], [*ports, *ports], [{**ports[0], "port": 81}], "x"):
        assert children.live_differs(wanted, {**wanted, "spec": {**wanted["spec"], "ports": other}})
    for nothing in ({}, [], None, "", False, 0):
        assert not children.live_differs({"spec": {"a": nothing}}, {"spec": {}}), "the API server stores no such thing"
    for something in (1, "x", True, [1], {"b": 1}):
        assert children.live_differs({"spec": {"a": something}}, {"spec": {}})
    assert children.live_differs({"data": {"a": "1"}}, {"data": {"a": "2"}})
    assert not children.live_differs({"kind": "A", "spec": {}}, {"kind": "B", "spec": {}})
    assert children.live_differs({"spec": {"a": {"b": 1}}}, {"spec": {"a": 1}})


def made(facts: Facts) -> Changes:
    return plan(facts).changes


def names(manifests: Any) -> list[str]:
    return [f"{item['kind']} {item['metadata']['name']}" for item in manifests]


def test_a_settled_model_is_not_written() -> None:
    assert made(settled(OF, 2)) == Changes((), (), (), (), ())
    assert not made(settled(OF, 2)).takes_away


def test_only_what_takes_away_is_bound_to_what_was_seen() -> None:
    seen = revision(OF, 3)
    seen = replace(seen, live={**seen.live, "metadata": {**seen.live["metadata"], "resourceVersion": "7"}})
    three = tuple(pod(OF, number) for number in range(3))
    smaller = made(replace(settled(OF, 2), revisions=(seen,), pods=three))
    assert smaller.takes_away and smaller.grow == () and names(smaller.shrink) == [f"Deployment m-{NAME}"]
    assert smaller.shrink[0]["metadata"]["resourceVersion"] == "7"
    larger = made(replace(settled(model(replicas=4), 3), revisions=(seen,), pods=three))
    assert not larger.takes_away and names(larger.grow) == [f"Deployment m-{NAME}"]
    assert "resourceVersion" not in larger.grow[0]["metadata"]


def test_a_new_model_gets_its_deployment_first_and_then_what_stands_before_it() -> None:
    fresh = made(Facts(OF, NOW))
    assert names(fresh.grow) == [f"Deployment m-{NAME}", "Service m", "PodDisruptionBudget m"]
    assert "resourceVersion" not in fresh.grow[0]["metadata"] and not fresh.takes_away


def test_what_somebody_changed_is_put_right() -> None:
    of = settled(OF, 2)
    assert of.service is not None and of.disruption_budget is not None
    assert names(made(replace(of, service={**of.service, "spec": {}})).grow) == ["Service m"]
    assert names(made(replace(of, disruption_budget={**of.disruption_budget, "spec": {}})).grow) == [
        "PodDisruptionBudget m"
    ]
    gone = made(replace(settled(model(), 1), disruption_budget=of.disruption_budget))
    assert gone.delete == (("PodDisruptionBudget", "m", ""),) and gone.takes_away
    for place in ("foreign", "leftover"):
        others: dict[str, Any] = {place: ("PodDisruptionBudget",)}
        assert made(replace(settled(model(), 1), disruption_budget={"kind": "x"}, **others)).delete == ()


def test_a_record_of_failure_that_is_over_is_written_away() -> None:
    record = {"kind": "crash", "reason": "x", "message": "x", "retry": "", "at": "2027-01-15T08:00:00Z"}
    kept = revision(OF, 2, failed=record)
    over = replace(settled(model(replicas=2, retry="1"), 2), revisions=(kept,))
    assert names(made(over).grow) == [f"Deployment m-{NAME}"]


def test_a_check_pod_is_made_once_for_each_revision() -> None:
    of = settled(OF, 2)
    wants = replace(plan(of).plan, check=NAME)
    template = target_template(of, NAME, DEFAULTS)
    assert names(changes(of, wants, template).grow) == [f"Pod m-{NAME}-check"]
    there = replace(of, check=replace(pod(OF), revision=NAME))
    assert changes(there, wants, template).grow == ()
    other = replace(of, check=replace(pod(OF), revision="other"))
    assert names(changes(other, wants, template).grow) == [f"Pod m-{NAME}-check"]


def test_a_deployment_that_goes_is_the_one_that_was_seen() -> None:
    of = settled(OF, 2)
    old = revision(model(engine={"maxModelLen": 512}), 0)
    old = replace(old, live={**old.live, "metadata": {**old.live["metadata"], "uid": "old-uid"}})
    found = made(replace(of, revisions=(*of.revisions, old)))
    assert found.delete == (("Deployment", old.name, "old-uid"),) and found.takes_away
