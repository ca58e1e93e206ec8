"""Closed doors as the chart sets them up: keys, the scrape token, flags, and who may connect to engines."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from cluster.chart_rendering import SYSTEM, Object, named, of_kind, render
from cluster.test_chart_network_policies import (
    NAME,
    OTHER_RELEASE,
    OUTSIDE,
    PROMETHEUS,
    STRANGER,
    Peer,
    is_peer,
    pods_of,
)
from topmast_access.signing import SigningKey

RULES = "--engine-network-policy="


def arguments(objects: list[Object], component: str) -> list[str]:
    return list(
        named(objects, "Deployment", f"topmast-{component}")["spec"]["template"]["spec"]["containers"][0]["args"]
    )


def secrets(objects: list[Object]) -> set[str]:
    return {item["metadata"]["name"] for item in of_kind(objects, "Secret")}


def engine_rules(objects: list[Object]) -> list[Any] | None:
    """What the operator is told to write into engines' policies."""
    found = [json.loads(word.removeprefix(RULES)) for word in arguments(objects, "operator") if word.startswith(RULES)]
    return found[0] if found else None


def may_connect(objects: list[Object], peer: Peer, port: int) -> bool:
    """To an engine in a namespace of its users, where a peer without a namespaceSelector would be one beside it."""
    rules = engine_rules(objects)
    assert rules is not None
    assert all("namespaceSelector" in entry or "ipBlock" in entry for rule in rules for entry in rule["from"])
    return any(
        port in [entry["port"] for entry in rule["ports"]] and any(is_peer(entry, peer) for entry in rule["from"])
        for rule in rules
    )


def test_the_key_that_helm_makes_is_one_that_gateway_and_operator_sign_with() -> None:
    objects = render()
    data = named(objects, "Secret", "topmast-engine-keys")["data"]
    assert list(data) == ["signing.pem"]
    key = SigningKey(base64.b64decode(data["signing.pem"]))
    assert key.public_jwk["crv"] == "Ed25519"
    assert "--signing-key=/etc/topmast/engine-keys/signing.pem" in arguments(objects, "gateway")
    assert {"--engine-keys=/etc/topmast/engine-keys", "--closed-engines"} <= set(arguments(objects, "operator"))
    for component in ("operator", "gateway"):
        pod = named(objects, "Deployment", f"topmast-{component}")["spec"]["template"]["spec"]
        assert {"name": "engine-keys", "secret": {"secretName": "topmast-engine-keys"}} in pod["volumes"]
        (mount,) = [item for item in pod["containers"][0]["volumeMounts"] if item["name"] == "engine-keys"]
        assert mount == {"name": "engine-keys", "mountPath": "/etc/topmast/engine-keys", "readOnly": True}


def test_a_scraper_shows_the_token_that_engines_are_told() -> None:
    objects = render("podMonitors.enabled=true")
    assert len(base64.b64decode(named(objects, "Secret", "topmast-metrics-token")["data"]["token"])) == 40
    assert "--engine-metrics-token=/etc/topmast/metrics/token" in arguments(objects, "operator")

    def authorization(component: str, objects: list[Object] = objects) -> Any:
        monitor = named(objects, "PodMonitor", f"topmast-{component}")
        return monitor["spec"]["podMetricsEndpoints"][0].get("authorization")

    assert authorization("engines") == {
        "type": "Bearer",
        "credentials": {"name": "topmast-metrics-token", "key": "token"},
    }
    assert authorization("operator") is None and authorization("gateway") is None
    opened = render("podMonitors.enabled=true", "engineAccess.metrics.open=true")
    assert authorization("engines", opened) is None and "topmast-metrics-token" not in secrets(opened)
    assert "--open-engine-metrics" in arguments(opened, "operator")
    assert not [word for word in arguments(opened, "operator") if "metrics-token" in word]


def test_the_scrape_token_is_where_the_pod_monitor_is() -> None:
    """Prometheus' operator reads Secrets in the PodMonitor's namespace alone."""
    objects = render("podMonitors.enabled=true", 'podMonitors.namespace="monitoring"')
    tokens = [item for item in of_kind(objects, "Secret") if item["metadata"]["name"] == "topmast-metrics-token"]
    assert {item["metadata"]["namespace"] for item in tokens} == {SYSTEM, "monitoring"}
    assert len({item["data"]["token"] for item in tokens}) == 1


def test_with_secrets_of_ones_own_none_is_made() -> None:
    objects = render('engineAccess.existingSecret="ours"', 'engineAccess.metrics.existingTokenSecret="scrape"')
    assert secrets(objects).isdisjoint({"topmast-engine-keys", "topmast-metrics-token"})
    for component in ("operator", "gateway"):
        pod = named(objects, "Deployment", f"topmast-{component}")["spec"]["template"]["spec"]
        assert {"name": "engine-keys", "secret": {"secretName": "ours"}} in pod["volumes"]


@pytest.mark.parametrize("value", ["engineAccess.enabled=false", "gateway.enabled=false"])
def test_open_engines_know_no_keys(value: str) -> None:
    objects = render(value, "podMonitors.enabled=true")
    assert secrets(objects).isdisjoint({"topmast-engine-keys", "topmast-metrics-token"})
    assert not [word for word in arguments(objects, "operator") if "engine-keys" in word or "closed" in word]
    assert "authorization" not in json.dumps(named(objects, "PodMonitor", "topmast-engines"))


@pytest.mark.parametrize(
    ("peer", "port", "allowed"),
    [
        ("gateway", 8000, True),
        ("gateway", 8001, True),
        ("operator", 8001, True),
        (PROMETHEUS, 8000, True),
        (PROMETHEUS, 8001, False),
        (STRANGER, 8000, False),
        (STRANGER, 8001, False),
        (OTHER_RELEASE, 8000, False),
        (OUTSIDE, 8000, False),
        (Peer("team-a", {NAME: "topmast", "app.kubernetes.io/component": "gateway"}), 8000, False),
    ],
)
def test_only_this_release_and_scrapers_get_to_engines(peer: Peer | str, port: int, allowed: bool) -> None:
    objects = render()
    assert may_connect(objects, pods_of(objects, peer) if isinstance(peer, str) else peer, port) == allowed


def test_who_gets_to_engines_can_be_chosen() -> None:
    near = render('networkPolicy.scrapers=[{"podSelector": {"matchLabels": {"app": "prom"}}}]')
    assert may_connect(near, Peer(SYSTEM, {"app": "prom"}), 8000), "beside the release, as for operator and gateway"
    assert not may_connect(near, Peer("team-a", {"app": "prom"}), 8000)
    more = render('networkPolicy.engines.extraIngress=[{"ports": [{"port": 8000}]}]')
    assert engine_rules(more)[-1] == {"ports": [{"port": 8000}]}  # type: ignore[index]
    for value in ("networkPolicy.enabled=false", "networkPolicy.engines.enabled=false", "gateway.enabled=false"):
        assert engine_rules(render(value)) is None
