"""The operator as a process: restarts, its Lease, namespaced rights, wrong usage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from operatorlab.world import SYSTEM, World

from topmast_operator.watch.login import login_in_pod


def uids(world: World, model: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in world.list("pods", model)}


def test_a_restart_or_an_upgrade_changes_no_pod(world: World) -> None:
    with world.operator():
        world.apply(world.model("kept", replicas=2))
        versions = world.until_settled("kept", 2)
        before = uids(world, "kept")
    world.remain("served without an operator", lambda: uids(world, "kept") == before, 1)
    # Another default image is what an upgrade brings: argparse takes the last --engine-image.
    with world.operator("--engine-image", "topmast/server:next") as second:
        world.until("a pass", lambda: second.metric('topmast_operator_reconciles_total{result="done"}') >= 1)
        world.remain("the same pods", lambda: uids(world, "kept") == before, 2)
        assert world.versions("kept") == versions, "the next version wrote something"
        world.apply(world.model("kept", replicas=2, engine={"maxNumSeqs": 4}, rollout={"revisionHistoryLimit": 0}))
        world.until_ready("kept", 2)
        (deployment,) = world.until("the new revision alone", lambda: _only_one(world.list("deploy", "kept")))
        assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "topmast/server:next"


def test_defaults_for_engine_pods_reach_new_revisions_and_restart_nothing(world: World, tmp_path: Path) -> None:
    path = tmp_path / "defaults.yaml"
    path.write_text("labels: {cost-centre: models}\nimagePullSecrets: [{name: registry}]\n")
    with world.operator():
        world.apply(world.model("before"))
        versions = world.until_settled("before", 1)
    with world.operator("--engine-pod-defaults", str(path)) as process:
        world.until("a pass", lambda: process.metric('topmast_operator_reconciles_total{result="done"}') >= 1)
        world.apply(world.model("after"))
        world.until_ready("after", 1)
        assert world.versions("before") == versions, "other defaults wrote something"
        (pod,) = world.pods("after")
        assert pod["metadata"]["labels"]["cost-centre"] == "models"
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_a_change_made_while_no_operator_ran_is_made_good(world: World) -> None:
    world.apply(world.model("late", replicas=1))
    assert world.status("late") == {"observedGeneration": -1}
    with world.operator():
        world.until_ready("late", 1)


def test_of_two_operators_one_acts_and_the_other_takes_over(world: World) -> None:
    with world.operator() as first:
        world.until("the first holds", lambda: first.metric("topmast_operator_lease_held") == 1)
        with world.operator() as second:
            assert second.metric("topmast_operator_lease_held") == 0
            assert second.get("/readyz")[0] == 200, "a standby is ready"
            assert first.stop(signal.SIGTERM) == 0
            stopped = datetime.now(UTC)
            world.until("the other holds", lambda: second.metric("topmast_operator_lease_held") == 1)
            written = ("-n", SYSTEM, "-o", "jsonpath={.spec.acquireTime}")
            taken = datetime.fromisoformat(world.kubectl("get", "lease", "topmast-operator", *written))
            # By the Lease's own clock. One that is not given back is good for 12 seconds more at least.
            assert (taken - stopped).total_seconds() < 8
            world.apply(world.model("taken-over"))
            world.until_ready("taken-over", 1)


def test_a_stolen_lease_ends_the_process(world: World) -> None:
    with world.operator() as process:
        world.until("it holds", lambda: process.metric("topmast_operator_lease_held") == 1)
        patch = '{"spec":{"holderIdentity":"thief","leaseDurationSeconds":1}}'
        world.kubectl("patch", "lease", "topmast-operator", "-n", SYSTEM, "--type=merge", "-p", patch)
        assert process.popen.wait(timeout=60) == 1
        assert "thief holds the Lease now" in process.log.read_text()


def test_namespaced_rights_are_enough_in_their_namespace(world: World) -> None:
    other = f"{world.namespace[:50]}-other"
    world.kubectl("create", "namespace", other)
    world.grant("operator-one-namespace", namespaces=(world.namespace,))
    gpus = {"accelerator": {"count": 3}}
    with world.operator("--namespace", world.namespace, account="operator-one-namespace"):
        world.apply(world.model("mine", replicas=2))
        world.apply(world.model("greedy", resources=gpus))
        foreign = world.model("theirs")
        foreign["metadata"]["namespace"] = other
        world.apply(foreign)
        world.until_ready("mine", 2)
        world.kubectl("scale", "llm", "mine", "--replicas=1")
        world.until_ready("mine", 1)
        short = world.until("no room", lambda: _false(world, "greedy", "CapacityAvailable"))
        assert "Insufficient nvidia.com/gpu" in short["message"]
        assert world.kubectl("get", "deploy", "-n", other) == ""
    world.kubectl("delete", "namespace", other, "--wait=false")


def test_a_fallback_in_a_namespace_that_is_not_watched_is_taken_to_be_there(world: World) -> None:
    def says(reason: str, words: str) -> None:
        world.until(reason, lambda: world.condition("main", "AccessResolved")["reason"] == reason)
        assert words in world.condition("main", "AccessResolved")["message"]

    world.grant("operator-one-namespace", namespaces=(world.namespace,))
    with world.operator("--namespace", world.namespace, account="operator-one-namespace"):
        world.apply(world.model("main", access={"fallbacks": ["elsewhere/spare"]}, suspend=True))
        says("Resolved", "does not watch the namespace of elsewhere/spare, and takes it to be there")
        world.apply(world.model("main", access={"fallbacks": ["elsewhere/spare", "near"]}, suspend=True))
        says("FallbackNotFound", "There is no model near to fall back to")


def test_in_a_pod_the_api_server_is_found_without_dns(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    inside = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    found = login_in_pod(inside, tmp_path)
    assert found is not None and found.server == "https://10.96.0.1:443" and found.token == "secret"
    found = login_in_pod({**inside, "KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path)
    assert found is not None and found.server == "https://[fd00::1]:443"
    assert login_in_pod({}, tmp_path) is None


def test_wrong_usage_is_one_sentence() -> None:
    command = [sys.executable, "-m", "topmast_cli.main", "operator"]
    away = {**os.environ, "KUBECONFIG": "/nonexistent"}
    cases = (
        ([], "--engine-image"),
        (["--engine-image", "x"], "--lease-namespace is needed outside of a pod"),
        (["--engine-image", "x", "--resync-s", "0", "--lease-namespace", "y"], "between 1 and 3600"),
        (["--engine-image", "x", "--lease-namespace", "y"], "Set KUBECONFIG, or run in a pod"),
        (["--engine-image", "x", "--lease-namespace", "y", "--closed-engines"], "needs --engine-keys DIR"),
        (["--engine-image", "x", "--lease-namespace", "y", "--engine-keys", "/nowhere"], "/nowhere/signing.pem"),
        (["--engine-image", "x", "--gateway-selector", "a=b"], "--gateway-selector needs --shared-token-file"),
        (["--engine-image", "x", "--engine-network-policy", "{}"], "a list of NetworkPolicyIngressRules"),
    )
    running = [
        subprocess.Popen([*command, *arguments], env=away, stderr=subprocess.PIPE, text=True) for arguments, _ in cases
    ]
    for process, (_, sentence) in zip(running, cases, strict=True):
        _, said = process.communicate(timeout=60)
        assert process.returncode == 2
        assert sentence in said and "Traceback" not in said


def _only_one(found: list[Any]) -> list[Any] | None:
    return found if len(found) == 1 else None


def _false(world: World, name: str, kind: str) -> Any:
    found = world.condition(name, kind)
    return found if found["status"] == "False" else None
