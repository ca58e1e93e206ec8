"""What the operator hears of and what it asks for: events of every kind, no reads at rest, nobody woken by itself.

The operators here look over their models every ten minutes: whatever happens within seconds, an event did.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from operatorlab.audit_log import asked
from operatorlab.playkubelet import Fate
from operatorlab.reader import collection
from operatorlab.world import SYSTEM, Object, Process, World

from topmast_operator.act.client import Api
from topmast_operator.api.facts import Facts
from topmast_operator.watch.gather import Gatherer
from topmast_operator.watch.mirror import Mirror
from topmast_operator.watch.own_writes import OwnWrites

SOON_S = 6.0  # less than the ten seconds after which an unsettled model is looked at anyway
PASSES = 'topmast_operator_reconciles_total{result="done"}'


@pytest.fixture(scope="module")
def watching(whole_world: World) -> Iterator[Process]:
    with whole_world.operator() as process:
        yield process


def test_a_pass_over_a_settled_model_reads_nothing_and_its_own_writes_wake_nobody(
    world: World, watching: Process
) -> None:
    world.apply(world.model("calm", replicas=2))
    world.until_alone()
    world.until_settled("calm", 2)
    before, since = watching.metric(PASSES), time.time() + 1
    time.sleep(3)
    said = f"something woke it although nothing happened; {watching.log.read_text()[-3000:]}"
    assert watching.metric(PASSES) == before, said
    pod = world.pods("calm")[0]["metadata"]["name"]
    world.kubectl("label", "pod", pod, "somebody=else")
    world.until("a pass", lambda: watching.metric(PASSES) > before)
    time.sleep(1)
    assert asked(world, since) == []
    world.kubectl("annotate", "service", "calm", "topmast.dev/applied-", "--overwrite")

    def repaired() -> bool:
        service = world.get("service", "calm")
        return service is not None and "topmast.dev/applied" in service["metadata"].get("annotations", {})

    world.until("repaired", repaired, SOON_S)
    time.sleep(1)
    writes = asked(world, since)
    assert len(writes) == 1 and writes[0].startswith("patch") and "/services/calm" in writes[0], writes


def test_a_name_that_becomes_free_is_taken_at_once(world: World, watching: Process) -> None:
    world.kubectl("create", "service", "clusterip", "wanted", "--tcp=80:80")
    world.apply(world.model("wanted"))
    world.until("Stalled", lambda: world.condition("wanted", "Stalled")["reason"] == "NameTaken")
    world.kubectl("delete", "service", "wanted")
    world.until("its own Service", lambda: world.list("service", "wanted"), SOON_S)


def test_a_model_that_is_replaced_by_one_of_its_name_never_stalls(world: World, watching: Process) -> None:
    """The first one's children wait for the garbage collector, and Helm would give up on a Stalled at once."""
    world.apply(world.model("twice", replicas=2))
    before = world.until_ready("twice", 2)
    first = before["metadata"]["uid"]
    world.kubectl("replace", "--force", "-f", "-", stdin=world.model("twice", replicas=2))
    second = world.until_ready("twice", 2)
    assert second["metadata"]["uid"] != first
    all_models = f"{collection('llm', world.namespace)}?limit=100"
    for change in world.reader.watch(all_models, before["metadata"]["resourceVersion"]):
        for condition in change["object"]["status"].get("conditions", ()):
            assert (condition["type"], condition["status"]) != ("Stalled", "True"), condition
        if change["object"]["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]:
            break
    for kind in ("deploy", "service", "pdb"):
        (child,) = world.list(kind, "twice")
        assert child["metadata"]["ownerReferences"][0]["uid"] == second["metadata"]["uid"]


def test_a_stray_pod_with_the_labels_takes_no_replica_away(world: World, watching: Process) -> None:
    world.apply(world.model("steady"))
    world.until_ready("steady", 1)
    (replica,) = world.pods("steady")
    stray = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stray", "namespace": world.namespace, "labels": replica["metadata"]["labels"]},
        "spec": {"containers": [{"name": "engine", "image": "x"}]},
    }
    # Without the ReplicaSet's own label, or that would take the pod for one of its own.
    del stray["metadata"]["labels"]["pod-template-hash"]  # type: ignore[index]
    passes = watching.metric(PASSES)
    world.apply(stray)
    world.until("it is looked at", lambda: watching.metric(PASSES) > passes)
    found = gathered(world, "steady")
    assert found.strays == ("stray",) and [pod.name for pod in found.pods] == [replica["metadata"]["name"]]
    (still,) = [pod for pod in world.pods("steady") if pod["metadata"]["name"] != "stray"]
    assert still["metadata"]["uid"] == replica["metadata"]["uid"]
    assert "topmast.dev/draining" not in still["metadata"].get("annotations", {})
    world.until_ready("steady", 1)


def test_a_cordoned_node_is_no_room_and_is_heard_of_at_once(world: World, watching: Process) -> None:
    world.apply(world.model("waits", resources={"accelerator": {"count": 3}}))

    def says(words: str) -> Any:
        return lambda: words in world.condition("waits", "CapacityAvailable")["message"]

    world.until("the size of the node", says("2 of 2 are free on 1 nodes"))
    world.kubectl("cordon", "gpu-1")
    try:
        world.until("it is no room", says("0 of 0 are free on 0 nodes"), SOON_S)
    finally:
        world.kubectl("uncordon", "gpu-1")
    world.until("it is again", says("2 of 2 are free on 1 nodes"), SOON_S)


def test_claim_quota_and_what_the_kubelet_says_are_facts(world: World, watching: Process) -> None:
    world.kubelet.fates["facts"] = Fate(waiting=("ContainerCreating", ""))
    world.kubectl("create", "quota", "some", "--hard=pods=5")
    world.apply(world.model("facts", model={"source": "pvc://weights/a.gguf"}))
    world.apply(claim(world, "weights"))
    found = gathered(world, "facts")
    assert found.claim is not None and found.claim.one_node and found.claim.phase in ("", "Pending")
    assert [quota.name for quota in found.quotas] == ["some"] and found.quotas[0].hard == {"pods": "5"}

    world.kubelet.fates["held"] = Fate(waiting=("ContainerCreating", ""))
    world.apply(world.model("held"))
    (pod,) = world.until("a pod on a node", lambda: [p for p in world.pods("held") if p["spec"].get("nodeName")])
    world.apply(event_about(pod, "FailedMount", "MountVolume.SetUp failed for volume model"))
    assert gathered(world, "held").pods[0].stuck_message == "", "volumes take a while"
    (late,) = gathered(world, "held", later_s=30).pods
    assert late.stuck_message == "FailedMount: MountVolume.SetUp failed for volume model"


def test_two_operators_that_watch_one_model_say_so_and_one_of_them_acts(world: World, watching: Process) -> None:
    world.apply(world.model("shared"))
    world.until_ready("shared", 1)
    with world.operator("--namespace", world.namespace, "--lease-name", "another") as other:
        world.until_told("shared", "OtherOperator", f"{SYSTEM}/another")
        world.kubectl("scale", "llm", "shared", "--replicas=2")
        world.until_ready("shared", 2)
        assert "apply" not in other.log.read_text(), "the other one acted"
    assert world.status("shared")["operator"]["lease"] == f"{SYSTEM}/topmast-operator"


def gathered(world: World, name: str, later_s: float = 0.0) -> Facts:
    """The facts as a fresh read gives them, with an admin's rights; `later_s` from now."""

    async def gather() -> Facts | None:
        api = await Api.connect(str(world.cluster.kubeconfig))
        try:
            gatherer = Gatherer(api, Mirror(OwnWrites()))
            return await gatherer.gather({}, world.namespace, name, time.time() + later_s, fresh=True)
        finally:
            await api.close()

    found = asyncio.run(gather())
    assert found is not None
    return found


def claim(world: World, name: str) -> Object:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "none"}
    metadata = {"name": name, "namespace": world.namespace}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def event_about(pod: Object, reason: str, message: str) -> Object:
    meta = pod["metadata"]
    about = {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.1", "namespace": meta["namespace"]},
        "involvedObject": about,
        "type": "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": meta["creationTimestamp"],
        "source": {"component": "kubelet"},
    }
