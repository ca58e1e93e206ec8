"""Closed doors: what a model's pods are given so that they serve nobody but gateway and operator."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from operatorlab import facts
from operatorlab.facts import model, settled

from engine_keys import new_key
from topmast_access.rules import parse_rules
from topmast_operator.api.facts import Facts
from topmast_operator.plan.plan import make_plan
from topmast_operator.plan.revision import revision_of
from topmast_operator.render import access
from topmast_operator.render.access import Doors, access_text
from topmast_operator.render.changes import Changes, changes, target_template
from topmast_operator.render.check import check_pod
from topmast_operator.render.template import EngineDefaults, render_template

CLOSED = EngineDefaults("topmast/server:1", closed=True)
DIGEST = "ab" * 32
TEXT = access_text([new_key().public_jwk], [DIGEST], metrics_open=False)
INGRESS = [{"from": [{"podSelector": {}}], "ports": [{"port": 8000}]}]


def made(of: Facts, doors: Doors, defaults: EngineDefaults = CLOSED) -> Changes:
    template = target_template(of, revision_of(of.model), defaults)
    return changes(of, make_plan(of, template), template, doors)


def kinds(of: Facts, doors: Doors, defaults: EngineDefaults = CLOSED) -> list[str]:
    return [item["kind"] for item in made(of, doors, defaults).grow]


def closed(replicas: int = 1, text: str = TEXT) -> Facts:
    """A model whose engines ask for tokens, settled."""
    of = model(replicas=replicas)
    name = revision_of(of)
    running = facts.revision(of, replicas, template=render_template(of, name, CLOSED))
    running = replace(
        running, live=facts.children.deployment(of, name, running.template, replicas, proven=True, failed=None)
    )
    return replace(settled(of, replicas), revisions=(running,), access=access.config_map(of, text))


def engine(template: dict[str, Any]) -> dict[str, Any]:
    (container,) = template["spec"]["containers"]
    return dict(container)


def test_a_closed_engine_mounts_its_file_as_a_directory_and_is_told_who_it_is() -> None:
    of = model(engine={"extraArgs": ["--batch-invariant"]})
    spec, container = render_template(of, "r", CLOSED)["spec"], engine(render_template(of, "r", CLOSED))
    assert spec["volumes"][-1] == {"name": "topmast-access", "configMap": {"name": "m-access"}}
    mount = {"name": "topmast-access", "mountPath": "/etc/topmast/access", "readOnly": True}
    assert container["volumeMounts"][-1] == mount, "a subPath would never be refreshed"
    assert container["args"][-5:] == [
        *("--access-file", "/etc/topmast/access/access.json", "--access-audience", "ns/m"),
        "--batch-invariant",
    ]


def test_without_closed_doors_nothing_is_added_to_a_pod() -> None:
    assert "access" not in json.dumps(render_template(model(), "r", facts.DEFAULTS))


def test_the_file_says_what_engines_read_and_holds_no_private_key() -> None:
    """While a key is replaced there are two, so that engines know what was signed with either."""
    keys = [new_key(), new_key()]
    text = access_text([key.public_jwk for key in keys], [DIGEST], metrics_open=False)
    rules = parse_rules(text.encode())
    assert set(rules.keys) == {key.kid for key in keys}
    assert (rules.metrics_open, rules.metrics_sha256) == (False, (bytes.fromhex(DIGEST),))
    assert all("d" not in key for key in json.loads(text)["keys"])
    assert parse_rules(access_text([], [], metrics_open=True).encode()).metrics_open


def test_the_file_is_there_before_the_pods_that_mount_it() -> None:
    grow = made(Facts(model(), facts.NOW), Doors(TEXT)).grow
    assert [item["kind"] for item in grow] == ["ConfigMap", "Deployment", "Service"]
    (written, *_) = grow
    assert written["data"] == {"access.json": TEXT}
    assert written["metadata"]["name"] == "m-access" and written["metadata"]["labels"]["topmast.dev/model"] == "m"
    assert written["metadata"]["ownerReferences"][0]["uid"] == "u"


def test_another_key_is_one_write_and_restarts_nothing() -> None:
    of = closed()
    assert made(of, Doors(TEXT)) == Changes((), (), (), (), ())
    other = access_text([new_key().public_jwk], [DIGEST], metrics_open=False)
    assert kinds(of, Doors(other)) == ["ConfigMap"]


def test_pods_that_run_hear_of_another_key_at_once() -> None:
    """The kubelet looks at what a pod mounts once a minute, and whenever the pod changes."""
    of = closed(replicas=2)
    leaving = replace(of.pods[1], deleting=True)
    other = access_text([new_key().public_jwk], [DIGEST], metrics_open=False)
    told = made(replace(of, pods=(of.pods[0], leaving)), Doors(other))
    assert told.refresh == (of.pods[0].name,) and told.access and not told.takes_away
    another = made(of, Doors(access_text([], [DIGEST], metrics_open=False)))
    assert another.access != told.access, "each content is another annotation, or the pod would not change"
    assert made(of, Doors(TEXT)).refresh == ()
    assert made(replace(of, access=None), Doors(TEXT)).refresh == (), "who mounts what was not there waits for it"


@pytest.mark.parametrize("damage", [{"data": {}}, {"data": {"access.json": "{}"}}])
def test_a_file_that_somebody_changed_is_put_right(damage: dict[str, Any]) -> None:
    of = closed()
    assert of.access is not None
    assert kinds(replace(of, access={**of.access, **damage}), Doors(TEXT)) == ["ConfigMap"]


def test_pods_that_run_are_never_closed_or_opened_by_another_setting() -> None:
    open_model = settled(model(), 1)
    assert made(open_model, Doors(TEXT)) == Changes((), (), (), (), ()), "pinned: a restart closes it"
    assert made(closed(), Doors(TEXT), facts.DEFAULTS) == Changes((), (), (), (), ()), "pinned: a restart opens it"
    other = access_text([new_key().public_jwk], [], metrics_open=True)
    assert kinds(closed(), Doors(other), facts.DEFAULTS) == ["ConfigMap"], "those that are closed hear of new keys"


def test_a_check_pod_needs_no_file() -> None:
    of = model()
    spec = check_pod(of, "r", render_template(of, "r", CLOSED))["spec"]
    assert "topmast-access" not in json.dumps(spec)
    (container,) = spec["containers"]
    serves = render_template(of, "r", CLOSED)["spec"]["containers"][0]["args"]
    assert container["args"] == ["check", *serves[1:]], "a wrong flag is found without the accelerator, too"


def test_a_name_that_somebody_else_has_is_not_taken_over() -> None:
    of = replace(Facts(model(), facts.NOW), foreign=("ConfigMap", "NetworkPolicy"))
    assert kinds(of, Doors(TEXT, INGRESS)) == ["Deployment", "Service"]
    template = target_template(of, revision_of(of.model), CLOSED)
    message = make_plan(of, template).status["conditions"]
    assert "A ConfigMap named m-access exists in namespace ns" in json.dumps(message)


def test_engines_get_a_network_policy_and_are_open_again_without_the_setting() -> None:
    of = settled(model(), 1)
    (policy,) = made(of, Doors(ingress=INGRESS)).grow
    assert policy["kind"] == "NetworkPolicy" and policy["metadata"]["name"] == "m-engines"
    assert policy["spec"]["podSelector"]["matchLabels"]["topmast.dev/model"] == "m"
    assert policy["spec"]["ingress"] == INGRESS and policy["spec"]["policyTypes"] == ["Ingress"]
    guarded = replace(of, network_policy=policy)
    assert made(guarded, Doors(ingress=INGRESS)) == Changes((), (), (), (), ())
    assert made(guarded, Doors(ingress=[])).grow[0]["spec"]["ingress"] == []
    assert made(guarded, Doors()).grow[0]["spec"]["ingress"] == [{}], "everybody, as without a policy"
    assert made(of, Doors()).grow == (), "who never had one gets none"


def test_a_digest_tells_contents_apart_in_twelve_digits() -> None:
    one, other = (access.digest({"data": {access.FILE: text}}) for text in ("a", "b"))
    assert one != other and len(one) == len(other) == 12
