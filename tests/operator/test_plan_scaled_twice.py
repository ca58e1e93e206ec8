"""Somebody else scales a model that scales itself: it is said, with a remedy, and only while it goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from operatorlab.facts import NOW, Made, body, condition, engine, model, plan, pod, revision

from topmast_operator.api.facts import Facts
from topmast_operator.api.resource import parse

HPA, PERSON = "kube-controller-manager", "kubectl"


def managed(manager: str, subresource: str | None = "scale", **fields: Any) -> dict[str, Any]:
    """An entry of metadata.managedFields, as the API server writes them."""
    entry = {"manager": manager, "operation": "Update", "fieldsV1": fields}
    return entry | ({"subresource": subresource} if subresource else {})


REPLICAS = {"f:spec": {"f:replicas": {}}}


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ([], ""),
        ([managed(HPA, **REPLICAS)], HPA),
        ([managed("helm", None, **REPLICAS)], ""),
        ([managed("topmast-operator", "status", **{"f:status": {"f:replicas": {}}})], ""),
        ([managed("kubectl", None, **{"f:spec": {"f:model": {}}}), managed(PERSON, **REPLICAS)], PERSON),
        ([managed(HPA)], ""),
    ],
)
def test_who_set_replicas_through_the_scale_subresource_is_read_from_the_object(
    entries: list[dict[str, Any]], found: str
) -> None:
    stored = body(autoscaling={"maxReplicas": 4})
    stored["metadata"]["managedFields"] = entries
    assert parse(stored).scaled_by == found


class Scaled:
    """A model of one idle replica, pass after pass, and what others write into spec.replicas meanwhile."""

    def __init__(self, **spec: Any) -> None:
        self.model = model(**{"autoscaling": {"maxReplicas": 4}, "replicas": 2, **spec})
        self.now = NOW

    def write(self, manager: str, replicas: int) -> None:
        self.model = replace(self.model, scaled_by=manager, replicas=replicas)

    def look(self, after_s: float = 10.0) -> Made:
        self.now += after_s
        made = plan(Facts(self.model, self.now, (revision(self.model, 1),), (pod(self.model, engine=engine()),)))
        self.model = replace(self.model, status=made.status)
        return made


def told(made: Made) -> dict[str, Any]:
    return condition(made, "AutoscalingActive")


def events(made: Made, reason: str) -> list[str]:
    return [event.message for event in made.plan.events if event.reason == reason and event.warning]


def test_an_autoscaler_beside_ours_is_named_with_the_remedy_and_an_event() -> None:
    scaled = Scaled()
    assert told(scaled.look())["reason"] == "Scaling"
    scaled.write(HPA, 3)
    made = scaled.look()
    assert (told(made)["status"], told(made)["reason"]) == ("True", "ScalingTwice")
    assert f"{HPA} set spec.replicas to 3" in told(made)["message"]
    assert "remove the HorizontalPodAutoscaler or ScaledObject that scales this model" in told(made)["message"]
    assert events(made, "ScalingTwice") == [told(made)["message"]]
    assert made.status["autoscaling"]["desiredReplicas"] == 1  # and it changes nothing


def test_it_is_told_once_however_often_it_writes_and_until_an_hour_after_the_last_time() -> None:
    scaled = Scaled()
    scaled.look()
    scaled.write(HPA, 3)
    said = events(scaled.look(), "ScalingTwice")
    for replicas in (4, 3, 3):
        scaled.write(HPA, replicas)
        made = scaled.look(600)
        assert told(made)["reason"] == "ScalingTwice" and not events(made, "ScalingTwice")
    assert told(scaled.look(3000))["reason"] == "ScalingTwice"
    assert told(scaled.look(1000))["reason"] == "Scaling"  # it was removed since: nothing else tells
    scaled.write(HPA, 5)
    assert len(said) == len(events(scaled.look(), "ScalingTwice")) == 1


def test_a_person_who_scales_is_told_what_counts_instead() -> None:
    scaled = Scaled()
    scaled.look()
    scaled.write(PERSON, 3)
    made = scaled.look()
    assert (told(made)["status"], told(made)["reason"]) == ("True", "ScaleIgnored")
    assert "kubectl set spec.replicas to 3" in told(made)["message"]
    assert "minReplicas or maxReplicas" in told(made)["message"]
    assert events(made, "ScaleIgnored")


def test_what_was_written_before_spec_autoscaling_was_set_is_no_conflict() -> None:
    scaled = Scaled(autoscaling=None)
    scaled.write(HPA, 3)
    assert told(scaled.look())["reason"] == "NotConfigured"
    status = scaled.model.status
    scaled = Scaled()
    scaled.model = replace(scaled.model, status=status, scaled_by=HPA, replicas=3)
    assert [told(scaled.look())["reason"] for _ in range(3)] == ["Scaling"] * 3


def test_a_spec_that_was_edited_is_no_other_scaler() -> None:
    scaled = Scaled()
    scaled.look()
    scaled.write(HPA, 3)
    scaled.look()
    scaled.write("", 2)  # the scale subresource owns it no longer
    assert told(scaled.look())["reason"] == "Scaling"


def test_without_autoscaling_the_scale_subresource_is_what_it_is_for() -> None:
    scaled = Scaled(autoscaling=None)
    scaled.look()
    scaled.write(HPA, 3)
    made = scaled.look()
    assert told(made)["reason"] == "NotConfigured" and made.status["ready"] == "1/3"
