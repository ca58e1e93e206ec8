"""What makes a new revision, and what must never make one."""

from __future__ import annotations

from typing import Any

import pytest
from operatorlab.facts import DEFAULTS, model, pod, revision, settled
from operatorlab.facts import plan as make

from topmast_operator.api.facts import Facts
from topmast_operator.plan.plan import make_plan
from topmast_operator.plan.revision import revision_of
from topmast_operator.render.changes import Changes, changes, target_template
from topmast_operator.render.children import deployment
from topmast_operator.render.template import EngineDefaults, render_template


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"resources": {"cpu": "1000m"}}, {"resources": {"cpu": 1}}),
        ({"resources": {"cpu": "1.5"}}, {"resources": {"cpu": "1500m"}}),
        ({"resources": {"memory": "1024Mi"}}, {"resources": {"memory": "1Gi"}}),
        ({"engine": {"kvCacheBytes": 1073741824}}, {"engine": {"kvCacheBytes": "1Gi"}}),
        ({"engine": {"env": []}}, {}),
        (
            {"engine": {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}},
            {"engine": {"env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]}},
        ),
        ({"replicas": 5}, {"replicas": 1}),
        ({"suspend": True}, {}),
        ({"autoscaling": {"maxReplicas": 3}}, {}),
        ({"access": {"aliases": ["gpt-4o"], "fallbacks": ["b"], "timeouts": {"holdSeconds": 5}, "retries": 0}}, {}),
        ({"engine": {"dtype": "auto"}, "drain": {"timeoutSeconds": 30}}, {}),
    ],
)
def test_the_same_intent_is_the_same_revision(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert revision_of(model(**one)) == revision_of(model(**other))


@pytest.mark.parametrize(
    "changed",
    [
        {"model": {"source": "image:///models/other.gguf"}},
        {"engine": {"image": "other:1"}},
        {"engine": {"dtype": "float32"}},
        {"engine": {"maxModelLen": 1024}},
        {"engine": {"extraArgs": ["--hang-timeout-s=20"]}},
        {"engine": {"env": [{"name": "A", "value": "1"}]}},
        {"resources": {"cpu": 2}},
        {"resources": {"accelerator": {"count": 1}}},
        {"placement": {"nodeSelector": {"gpu": "big"}}},
        {"placement": {"tolerations": [{"operator": "Exists"}]}},
        {"drain": {"timeoutSeconds": 60}},
    ],
)
def test_another_intent_is_another_revision(changed: dict[str, Any]) -> None:
    assert revision_of(model(**changed)) != revision_of(model())


def test_revisions_are_stable_across_versions_of_the_operator() -> None:
    """A change of these hashes would restart every model of every user on the next upgrade."""
    assert revision_of(model()) == "3dfe9260"
    full = model(
        engine={"image": "i:1", "dtype": "float32", "maxModelLen": 2048, "maxNumSeqs": 8, "kvCacheBytes": "1Gi"},
        resources={"accelerator": {"count": 2}, "cpu": "1500m", "memory": "4Gi"},
        placement={"nodeSelector": {"a": "b"}, "priorityClassName": "high"},
        drain={"timeoutSeconds": 60},
    )
    assert revision_of(full) == "193bd451"


def test_a_new_operator_version_writes_nothing_to_running_models() -> None:
    """Its default image is another one, and it would render other pods: what runs is pinned."""
    facts = settled(model(replicas=2), 2)
    name = revision_of(facts.model)
    template = target_template(facts, name, EngineDefaults("topmast/server:2"))
    plan = make_plan(facts, template)
    assert changes(facts, plan, template) == Changes((), (), (), (), ())
    assert plan.events == () and plan.status == facts.model.status


def test_a_template_that_an_older_version_rendered_is_applied_as_it_was() -> None:
    of = model(replicas=2)
    old = render_template(of, revision_of(of), DEFAULTS)
    old["spec"]["containers"][0]["env"] = [{"name": "OF_AN_OLD_VERSION", "value": "1"}]
    live = deployment(of, revision_of(of), old, 1, proven=True, failed=None)
    facts = Facts(of, settled(of, 1).now, revisions=(revision(of, 1, template=old, live=live),), pods=(pod(of),))
    (scaled, *_) = make(facts).changes.grow
    assert scaled["spec"]["replicas"] == 2
    assert scaled["spec"]["template"] == old


def test_drift_of_a_child_is_put_right() -> None:
    facts = settled(model(), 1)
    live = {**facts.revisions[0].live}
    live["spec"] = {**live["spec"], "replicas": 4}
    drifted = Facts(
        facts.model,
        facts.now,
        (revision(facts.model, 4, live=live),),
        facts.pods,
        {**(facts.service or {}), "spec": {}},
    )
    made = make(drifted).changes
    assert [item["kind"] for item in (*made.grow, *made.shrink)] == ["Service", "Deployment"]
