"""The pinned template: restored as it was, without a value of a variable in any annotation."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operatorlab.facts import DEFAULTS, model, settled
from operatorlab.facts import plan as make

from topmast_operator.api.facts import Facts, RevisionFacts
from topmast_operator.api.resource import Model
from topmast_operator.plan.revision import revision_of
from topmast_operator.render import pinned
from topmast_operator.render.check import check_pod
from topmast_operator.render.children import deployment, live_differs
from topmast_operator.render.template import EngineDefaults, render_template
from topmast_operator.watch.gather import completed
from topmast_operator.watch.records import read_deployment

SECRET = "hunter2-in-plain-text"
VARIABLES = [{"name": "TOKEN", "value": SECRET}, {"name": "EMPTY", "value": ""}]
FROM = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}


def read_revision(body: dict[str, Any], of: Model) -> RevisionFacts:
    """A Deployment as the operator reads it from the API server."""
    whole = {**body, "metadata": {"uid": "d", "resourceVersion": "1", **body["metadata"]}}
    return completed(read_deployment(whole).content, of)


def stored(of: Model, defaults: EngineDefaults = DEFAULTS) -> dict[str, Any]:
    """The Deployment as the API server keeps it: with its own defaults, and without empty values."""
    name = revision_of(of)
    body = copy.deepcopy(deployment(of, name, render_template(of, name, defaults), 1, proven=True, failed=None))
    body["metadata"]["creationTimestamp"] = "2027-01-15T08:00:00Z"
    body["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    for item in variables(body):
        if item.get("value") == "":
            del item["value"]
    return dict(body)


def variables(body: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = body["spec"]["template"]["spec"]["containers"][0]["env"]
    return found


def set_variable(body: dict[str, Any], name: str, value: str) -> None:
    next(item for item in variables(body) if item["name"] == name)["value"] = value


def test_no_value_of_a_variable_is_in_an_annotation() -> None:
    defaults = EngineDefaults("i", {"env": [{"name": "PROXY", "value": SECRET}]})
    body = stored(model(engine={"env": VARIABLES}), defaults)
    assert SECRET not in json.dumps(body["metadata"])
    assert json.dumps(body["spec"]).count(SECRET) == 2


def test_the_digest_of_what_was_applied_is_of_names_alone() -> None:
    """A short digest of a value is a way to guess it."""
    one, other = (model(engine={"env": [{"name": "A", "value": value}]}) for value in ("1", "2"))
    told = [
        deployment(model(), "r", render_template(of, "r", DEFAULTS), 1, proven=True, failed=None) for of in (one, other)
    ]
    assert told[0]["metadata"] == told[1]["metadata"] and told[0]["spec"] != told[1]["spec"]


@given(
    st.lists(st.tuples(st.sampled_from("ABCDE"), st.sampled_from(["", "x", "y"])), unique_by=lambda item: item[0]),
    st.booleans(),
)
def test_what_is_restored_is_what_was_rendered(given_values: list[tuple[str, str]], wanted: bool) -> None:
    of = model(engine={"env": [{"name": name, "value": value} for name, value in given_values] + [FROM]})
    body = stored(of)
    asks = of if wanted else model()
    assert read_revision(body, asks).template == render_template(of, revision_of(of), DEFAULTS)


def test_a_changed_value_of_the_wanted_revision_is_put_right() -> None:
    of = model(engine={"env": VARIABLES})
    body = stored(of)
    set_variable(body, "TOKEN", "of an intruder")
    facts = settled(of, 1)
    (applied,) = make(Facts(facts.model, facts.now, (read_revision(body, of),), facts.pods, facts.service)).changes.grow
    assert {item["name"]: item.get("value") for item in variables(dict(applied))}["TOKEN"] == SECRET


def test_any_other_drift_of_a_template_is_put_right_in_every_revision() -> None:
    old, new = model(engine={"env": VARIABLES}), model(engine={"maxNumSeqs": 4})
    for asks in (old, new):
        body = stored(old)
        body["spec"]["template"]["spec"]["containers"][0]["image"] = "of an intruder"
        template = read_revision(body, asks).template
        assert template["spec"]["containers"][0]["image"] == DEFAULTS.image
        wanted = deployment(old, revision_of(old), template, 1, proven=True, failed=None)
        assert live_differs(wanted, body)


def test_of_an_older_revision_the_values_that_run_are_kept() -> None:
    """The spec no longer tells them, and no pod may restart for that."""
    old = model(engine={"env": VARIABLES})
    body = stored(old)
    set_variable(body, "TOKEN", "changed by hand")
    template = read_revision(body, model()).template
    assert {"name": "TOKEN", "value": "changed by hand"} in template["spec"]["containers"][0]["env"]
    wanted = deployment(old, revision_of(old), template, 1, proven=True, failed=None)
    assert not live_differs(wanted, body)


def test_another_default_image_or_another_file_of_defaults_changes_nothing_that_runs() -> None:
    of = model(engine={"env": VARIABLES})
    body = stored(of, EngineDefaults("old:1", {"env": [{"name": "PROXY", "value": "a"}], "runtimeClassName": "nvidia"}))
    facts = settled(of, 1)
    made = make(Facts(facts.model, facts.now, (read_revision(body, of),), facts.pods, facts.service))
    assert made.changes.grow == made.changes.shrink == ()


def test_a_template_of_a_version_that_kept_values_is_read_and_then_kept_without() -> None:
    of = model(engine={"env": VARIABLES})
    body = stored(of)
    template = render_template(of, revision_of(of), DEFAULTS)
    body["metadata"]["annotations"].pop("topmast.dev/pinned")
    body["metadata"]["annotations"]["topmast.dev/template"] = json.dumps(template)
    facts = settled(of, 1)
    (applied,) = make(Facts(facts.model, facts.now, (read_revision(body, of),), facts.pods, facts.service)).changes.grow
    assert applied["spec"]["template"] == template, "no pod restarts"
    assert SECRET not in json.dumps(applied["metadata"])


def test_the_largest_environment_that_the_schema_allows_fits() -> None:
    many = [{"name": f"V{number}", "value": "x" * 4096} for number in range(64)]
    body = stored(model(engine={"env": many}, pod={"env": [{**item, "name": f"P{item['name']}"} for item in many]}))
    size = sum(len(name) + len(value) for name, value in body["metadata"]["annotations"].items())
    assert size < 32 * 1024


def test_values_of_containers_that_others_added_are_kept_out_as_well() -> None:
    """Where a pin was lost, what runs is pinned, sidecars and all."""
    body = stored(model())
    sidecar = {"name": "mesh", "env": [{"name": "KEY", "value": SECRET}, {"name": "HOME", "value": "/mesh"}]}
    body["spec"]["template"]["spec"]["containers"].append(sidecar)
    body["spec"]["template"]["spec"]["initContainers"] = [{**sidecar, "name": "init"}]
    del body["metadata"]["annotations"]["topmast.dev/pinned"]
    template = read_revision(body, model()).template
    again = deployment(model(), "r", template, 1, proven=True, failed=None)
    assert SECRET not in json.dumps(again["metadata"])
    again["metadata"]["creationTimestamp"] = body["metadata"]["creationTimestamp"]
    assert read_revision(again, model()).template == template, "each container has its own HOME"


def test_the_longest_template_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pinned.LONGEST_BYTES == 128 * 1024
    template = render_template(model(), "r", DEFAULTS)
    (text,) = pinned.annotations(template).values()
    monkeypatch.setattr(pinned, "LONGEST_BYTES", len(text.encode()))
    assert pinned.annotations(template) == {"topmast.dev/pinned": text}
    monkeypatch.setattr(pinned, "LONGEST_BYTES", len(text.encode()) - 1)
    assert pinned.annotations(template) == {}


def test_a_template_that_is_too_long_for_an_annotation_is_kept_by_what_runs() -> None:
    of = model(pod={"annotations": {f"a{number}": "x" * 4096 for number in range(32)}})
    body = stored(of)
    assert pinned.annotations(body["spec"]["template"]) == {}
    assert read_revision(body, of).template == body["spec"]["template"]
    again = deployment(of, revision_of(of), read_revision(body, of).template, 1, proven=True, failed=None)
    assert again["spec"] == body["spec"]


def test_a_lost_or_broken_pin_restarts_nothing() -> None:
    body = stored(model())
    for text in ("", "{", "[]"):
        body["metadata"]["annotations"]["topmast.dev/pinned"] = text
        assert read_revision(body, model()).template == body["spec"]["template"]


def test_the_digest_of_a_check_pod_is_made_without_values_too() -> None:
    """A short digest of a value can be guessed."""
    digests = set()
    for value in ("hunter2", "correct horse"):
        of = model(engine={"env": [{"name": "TOKEN", "value": value}]})
        pod = check_pod(of, "abcd1234", render_template(of, "abcd1234", DEFAULTS))
        (engine,) = pod["spec"]["containers"]
        assert {"name": "TOKEN", "value": value} in engine["env"], "the check sees what its revision sees"
        digests.add(pod["metadata"]["annotations"]["topmast.dev/applied"])
    assert len(digests) == 1
