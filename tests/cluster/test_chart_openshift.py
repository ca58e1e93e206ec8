"""The chart's pods on a cluster that gives user ids to namespaces, as OpenShift does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.chart_rendering import CHART, Object, of_kind, render
from cluster.dry_run import DryRun, dry_run
from cluster.waiting import until
from topmast_cluster.cluster import Cluster

NAMESPACE = "openshift"
POLICY = Path(__file__).parent / "openshift_policy.yaml"


def pods(objects: list[Object]) -> list[Object]:
    """One of each kind that a rendering makes, in the namespace that is guarded."""
    templates = [item["spec"]["template"] for item in of_kind(objects, "Deployment")] + of_kind(objects, "Pod")
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"probe-{number}", "namespace": NAMESPACE},
            "spec": {**template["spec"], "serviceAccountName": "default"},
        }
        for number, template in enumerate(templates)
    ]


@pytest.fixture(scope="module")
def openshift(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DryRun]:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"platform": "openshift"}},
    }
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
    control_plane.kubectl("apply", "-f", str(POLICY))
    account = ("get", "serviceaccount", "default", "-n", NAMESPACE)
    assert until(lambda: control_plane.kubectl(*account, check=False).returncode == 0)
    with dry_run(control_plane.kubeconfig, tmp_path_factory.mktemp("openshift")) as server:
        # A policy counts a moment after it was made.
        assert until(lambda: "runAsUser" in server.refusal(pods(render())[0]))
        yield server


def test_ids_of_our_own_are_refused(openshift: DryRun) -> None:
    """Or the policy would prove nothing."""
    assert all("runAsUser must be in the range" in openshift.refusal(pod) for pod in pods(render()))
    claim = render('gateway.usageLog.claim="usage"', "gateway.podSecurityContext.runAsUser=null")
    assert any("fsGroup must be in the range" in openshift.refusal(pod) for pod in pods(claim))


@pytest.mark.parametrize(
    "values",
    [
        (),
        ('gateway.usageLog.claim="usage"', 'gateway.tls.secretName="tls"'),
        ("operator.podSecurityContext=null", "operator.containerSecurityContext=null"),
        ("gateway.podSecurityContext.fsGroup=1000650000", 'gateway.usageLog.claim="usage"'),
    ],
)
def test_the_values_for_openshift_leave_ids_to_it(openshift: DryRun, values: tuple[str, ...]) -> None:
    probes = pods(render(*values, files=[CHART / "values-openshift.yaml"]))
    assert len(probes) == 3
    assert [openshift.refusal(probe) for probe in probes] == ["", "", ""]


def test_nothing_else_of_the_hardening_is_given_up() -> None:
    for pod in pods(render(files=[CHART / "values-openshift.yaml"])):
        spec = pod["spec"]
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
