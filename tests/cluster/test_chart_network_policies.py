"""Who may connect to operator and gateway, by the NetworkPolicies that the chart renders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from cluster.chart_rendering import SYSTEM, Object, named, of_kind, render

Labels = Mapping[str, str]
NAME = "app.kubernetes.io/name"


@dataclass(frozen=True)
class Peer:
    """A pod that connects; without labels it is an address outside of the cluster."""

    namespace: str
    labels: Labels | None


def pods_of(objects: list[Object], component: str) -> Peer:
    deployment = named(objects, "Deployment", f"topmast-{component}")
    return Peer(SYSTEM, deployment["spec"]["template"]["metadata"]["labels"])


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Kubernetes' label selectors, as far as the chart uses them."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", [])
    assert all(item["operator"] == "In" for item in expressions)
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(item["key"]) in item["values"] for item in expressions
    )


def is_peer(entry: Mapping[str, Any], peer: Peer) -> bool:
    if peer.labels is None:
        return "ipBlock" in entry and entry["ipBlock"]["cidr"] == "0.0.0.0/0"
    if "ipBlock" in entry:
        return False
    spaces = entry.get("namespaceSelector")
    namespace = {"kubernetes.io/metadata.name": peer.namespace}
    near = peer.namespace == SYSTEM if spaces is None else selects(spaces, namespace)
    return near and selects(entry.get("podSelector", {}), peer.labels)


def may_connect(objects: list[Object], peer: Peer, component: str, port: int) -> bool:
    """By the policies that select the component's pods. Without any, everybody may."""
    target = pods_of(objects, component).labels
    assert target is not None
    policies = [
        policy["spec"]
        for policy in of_kind(objects, "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], target) and "Ingress" in policy["spec"]["policyTypes"]
    ]
    return not policies or any(
        port in [entry["port"] for entry in rule["ports"]]
        and ("from" not in rule or any(is_peer(entry, peer) for entry in rule["from"]))
        for policy in policies
        for rule in policy["ingress"]
    )


STRANGER = Peer("team-a", {NAME: "curious"})
PROMETHEUS = Peer("monitoring", {NAME: "prometheus"})
OUTSIDE = Peer("", None)
OTHER_RELEASE = Peer(SYSTEM, {NAME: "topmast", "app.kubernetes.io/instance": "other"})


@pytest.mark.parametrize(
    ("peer", "component", "port", "allowed"),
    [
        ("gateway", "operator", 8080, True),  # wakes models
        ("gateway", "gateway", 8081, True),  # adds up usage
        ("operator", "operator", 8080, False),
        (PROMETHEUS, "operator", 8080, True),
        (PROMETHEUS, "gateway", 8081, True),
        (STRANGER, "operator", 8080, False),
        (STRANGER, "gateway", 8081, False),
        (STRANGER, "gateway", 8080, True),
        (OTHER_RELEASE, "operator", 8080, False),
        (OTHER_RELEASE, "gateway", 8081, False),
        (OUTSIDE, "operator", 8080, False),
        (OUTSIDE, "gateway", 8081, False),
        (OUTSIDE, "gateway", 8080, True),
        (Peer("team-a", {"app.kubernetes.io/component": "gateway"}), "operator", 8080, False),
        (STRANGER, "gateway", 9999, False),
    ],
)
def test_only_gateways_and_scrapers_get_behind_the_public_port(
    peer: Peer | str, component: str, port: int, allowed: bool
) -> None:
    objects = render()
    if isinstance(peer, str):
        peer = pods_of(objects, peer)
    assert may_connect(objects, peer, component, port) == allowed


def test_the_operator_gets_to_gateways_to_ask_what_waits() -> None:
    objects = render()
    operator = pods_of(objects, "operator")
    assert may_connect(objects, operator, "gateway", 8081)
    assert operator.labels
    other = Peer(SYSTEM, {**operator.labels, "app.kubernetes.io/instance": "other"})
    assert not may_connect(objects, other, "gateway", 8081)


def test_helm_test_gets_to_everything_that_it_asks() -> None:
    objects = render('networkPolicy.clients=[{"podSelector": {"matchLabels": {"app": "ingress"}}}]')
    test = Peer(SYSTEM, named(objects, "Pod", "topmast-test")["metadata"]["labels"])
    assert all(may_connect(objects, test, *to) for to in (("operator", 8080), ("gateway", 8081), ("gateway", 8080)))


def test_clients_scrapers_and_the_whole_can_be_chosen() -> None:
    clients = 'networkPolicy.clients=[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "web"}}}]'
    objects = render(clients, "networkPolicy.scrapers=[]")
    assert may_connect(objects, Peer("web", {}), "gateway", 8080)
    assert not may_connect(objects, STRANGER, "gateway", 8080)
    assert not may_connect(objects, OUTSIDE, "gateway", 8080)
    assert not may_connect(objects, PROMETHEUS, "operator", 8080)
    assert not may_connect(objects, PROMETHEUS, "gateway", 8081)
    everybody = render('networkPolicy.scrapers=[{"namespaceSelector": {}}]')
    assert may_connect(everybody, STRANGER, "operator", 8080)
    assert not may_connect(everybody, OUTSIDE, "operator", 8080)
    off = render("networkPolicy.enabled=false")
    assert of_kind(off, "NetworkPolicy") == [] and may_connect(off, OUTSIDE, "operator", 8080)


def test_connections_outwards_are_free_unless_rules_are_given_and_then_reach_what_topmast_needs() -> None:
    for policy in of_kind(render(), "NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress"] and "egress" not in policy["spec"]
    server = '[{"to": [{"ipBlock": {"cidr": "10.0.0.10/32"}}]}]'
    objects = render(f"networkPolicy.egress={server}")
    for policy in of_kind(objects, "NetworkPolicy"):
        rules = policy["spec"]["egress"]
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"] and len(rules) == 4

        def reaches(peer: Peer, port: int, rules: list[Any] = rules) -> bool:
            return any(
                port in [entry["port"] for entry in rule.get("ports", [])]
                and ("to" not in rule or any(is_peer(entry, peer) for entry in rule["to"]))
                for rule in rules
            )

        engine = Peer("team-a", {NAME: "topmast-engine"})
        assert reaches(OUTSIDE, 53) and reaches(engine, 8000) and reaches(engine, 8001)
        assert reaches(pods_of(objects, "operator"), 8080) and reaches(pods_of(objects, "gateway"), 8081)
        assert not reaches(STRANGER, 8000) and not reaches(OUTSIDE, 443)
