"""The operator asks gateway pods for their queues, with rights in one namespace: all real but engine and gateway."""

from __future__ import annotations

from pathlib import Path

from operatorlab.playkubelet import Fate
from operatorlab.told import telling, telling_queue
from operatorlab.world import SYSTEM, Object, World

from pod_network import address

TOKEN = "a-token-of-the-tests"
ENGINE, GATEWAY = address(5), address(6)
LABELS = {"app.kubernetes.io/instance": "queue-test", "app.kubernetes.io/component": "gateway"}


def gateway_pod(world: World) -> None:
    """A pod that nobody runs, with the status of one that serves."""
    metadata = {"name": "queue-test-gateway", "namespace": SYSTEM, "labels": LABELS}
    spec = {"schedulerName": "nobody", "containers": [{"name": "gateway", "image": "topmast/operator:test"}]}
    world.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    status = f'{{"status": {{"phase": "Running", "podIP": "{GATEWAY}", "podIPs": [{{"ip": "{GATEWAY}"}}], '
    status += '"conditions": [{"type": "Ready", "status": "True"}]}}'
    where = ("pod", metadata["name"], "-n", SYSTEM)
    world.kubectl("patch", *where, "--subresource=status", "--type=merge", "-p", status)


def test_what_waits_at_a_gateway_brings_replicas_within_seconds(world: World, tmp_path: Path) -> None:
    (token := tmp_path / "token").write_text(TOKEN)
    world.grant("operator-with-gateways", namespaces=(world.namespace,))
    gateway_pod(world)
    selector = ",".join(f"{key}={value}" for key, value in LABELS.items())
    flags = ("--namespace", world.namespace, "--shared-token-file", str(token), "--gateway-selector", selector)
    with (
        telling(ENGINE),
        telling_queue(GATEWAY, TOKEN, f"{world.namespace}/held") as gateway,
        world.operator(*flags, account="operator-with-gateways"),
    ):
        world.kubelet.fates["held"] = Fate(ip=ENGINE)
        world.apply(world.model("held", autoscaling={"maxReplicas": 6}))
        world.until_ready("held", 1)
        world.until("the gateway is asked", lambda: gateway.asked > 2)
        gateway.waiting = 1000  # 111 s of prompts and as much of answers: a burst, which does not grow
        scaled = world.until("replicas for the queue", lambda: _scaled(world), 20)
        assert scaled["desiredReplicas"] == 4  # 222 s of work within 60 s
        world.until_told("held", "ScaledUp", "1000 requests wait at the gateways")
        gateway.waiting = 0
        world.until("nobody waits", lambda: "at the gateways" not in _reason(world), 20)
        world.kubectl("delete", "pod", "queue-test-gateway", "-n", SYSTEM, "--grace-period=0", "--force")


def _scaled(world: World) -> Object | None:
    told: Object = world.status("held").get("autoscaling", {})
    return told if told.get("desiredReplicas", 0) > 1 else None


def _reason(world: World) -> str:
    return str(world.status("held").get("autoscaling", {}).get("reason", ""))
