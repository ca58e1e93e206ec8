"""What happens to the models when the rest is busy, away or replaced."""

from __future__ import annotations

import time

import pytest

from cluster.lab import RELEASE, SYSTEM, Lab, condition


@pytest.mark.timeout(600)
def test_a_burst_scales_out_and_in_without_a_failed_request(lab: Lab) -> None:
    autoscaling = {"minReplicas": 1, "maxReplicas": 2, "scaleDownHoldSeconds": 15}
    with lab.model("burst", autoscaling=autoscaling) as model:
        lab.until_ready(model, 1)
        with lab.traffic(model, clients=1, max_tokens=4, pause_s=2) as flow:
            with lab.traffic(model, clients=10, max_tokens=128) as burst:
                lab.until_ready(model, 2, 180)
                reason = lab.get("llm", model)["status"]["autoscaling"]["reason"]
                seen = burst.finished
                lab.until("answers with two replicas", lambda: burst.finished >= seen + 10)
            burst.assert_clean(10)
            assert any(digit in reason for digit in "0123456789"), f"a reason without numbers: {reason!r}"
            lab.until("one pod again", lambda: len(lab.pods(model)) == 1, 240)
            lab.until_ready(model, 1)
            lab.until("enough requests of the other client", lambda: flow.finished >= 10)
        flow.assert_clean(10)


def test_an_operator_that_restarts_or_is_installed_anew_changes_no_pod(lab: Lab) -> None:
    with lab.model("stays", replicas=2) as model:
        lab.until_ready(model, 2)
        before = lab.ready_uids(model)
        generation = {
            d["metadata"]["name"]: d["metadata"]["generation"] for d in lab.list("deploy", f"topmast.dev/model={model}")
        }
        with lab.traffic(model, clients=1) as flow:
            lab.kubectl("-n", SYSTEM, "rollout", "restart", f"deploy/{RELEASE}-operator")
            lab.kubectl("-n", SYSTEM, "rollout", "status", f"deploy/{RELEASE}-operator", "--timeout=90s")
            manifest = lab.kubectl("-n", SYSTEM, "get", "deploy", f"{RELEASE}-operator", "-o", "json")
            lab.kubectl("-n", SYSTEM, "delete", "deploy", f"{RELEASE}-operator", "--wait=true")
            lab.until(
                "the operator is gone", lambda: "operator" not in lab.kubectl("-n", SYSTEM, "get", "pods", "-o", "name")
            )
            assert "Tokyo" in lab.ask(model), "models must keep serving without an operator"
            time.sleep(5)
            lab.kubectl("apply", "-f", "-", stdin=manifest)
            lab.kubectl("-n", SYSTEM, "rollout", "status", f"deploy/{RELEASE}-operator", "--timeout=90s")
            until_operator_acts(lab)
        flow.assert_clean()
        lab.until("the same pods are ready", lambda: lab.ready_uids(model) == before)
        after = {
            d["metadata"]["name"]: d["metadata"]["generation"] for d in lab.list("deploy", f"topmast.dev/model={model}")
        }
        assert after == generation, "the new operator rewrote a Deployment that nobody changed"


def until_operator_acts(lab: Lab) -> None:
    """The operator holds the lease and reconciles: a new model gets its Deployment."""
    with lab.model("probe", suspend=True):
        lab.until("the operator answers", lambda: lab.list("deploy", "topmast.dev/model=probe"))


@pytest.mark.timeout(600)
def test_two_outages_of_the_api_server_stop_no_traffic(lab: Lab, cluster) -> None:  # type: ignore[no-untyped-def]
    with lab.model("steady") as model:
        lab.until_ready(model)
        operator = lab.list("pods", "app.kubernetes.io/component=operator", SYSTEM)
        with lab.traffic(model, clients=2) as flow:
            for _ in range(2):
                seen = flow.finished
                cluster.stop_apiserver()
                time.sleep(30)
                cluster.start_apiserver()
                assert flow.finished >= seen + 10, "traffic stopped while the API server was away"
                lab.until("the API server is back", lambda: lab.kubectl("get", "llm", model), 60)
            until_operator_acts(lab)
        flow.assert_clean(20)
        assert len(operator) >= 1
        # Kubelets and kube-proxy look again only up to a minute after an outage. Meanwhile the node may count as lost,
        # the gateway's pods as not ready, and a Service without a ready pod takes no new connection. The open ones,
        # above, went on (docs/decisions/0002).
        lab.until("new connections are served", lambda: "Tokyo" in lab.ask(model), 180)
        lab.until("the node is seen again", lambda: condition(lab.list("node")[0], "Ready")["status"] == "True", 180)


def test_helm_test_finds_operator_and_gateways_ready(lab: Lab) -> None:
    said = lab.helm("test", RELEASE, "-n", SYSTEM, "--logs", "--timeout=120s")
    assert said.count(": ready\n") >= 2 and "not asked, for this cluster has no DNS" in said, said
