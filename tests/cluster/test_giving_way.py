"""Successors that cannot start, on real pods under traffic: nothing that serves is taken away for them.

The node advertises two GPUs. A model that asks for both is one without a spare GPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cluster.lab import MODEL, Lab, Object, llm

BOTH_GPUS = {"accelerator": {"count": 2}}
NO_SUCH_SECRET = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "no-such-secret", "key": "token"}}}
NO_SUCH_IMAGE = "127.0.0.1:1/no/such:image"  # nobody listens there, and nobody is asked elsewhere


def rollout(lab: Lab, model: str) -> Object:
    return lab.get("llm", model)["status"].get("rollout", {})  # type: ignore[no-any-return]


def stalled(lab: Lab, model: str, reason: str) -> bool:
    found = lab.condition(model, "Stalled")
    return found["status"] == "True" and found["reason"] == reason


def answers_now(lab: Lab, model: str) -> bool:
    return bool(lab.condition(model, "Available")["status"] == "True")


@contextmanager
def cordoned(lab: Lab, node: str) -> Iterator[None]:
    lab.kubectl("cordon", node)
    try:
        yield
    finally:
        lab.kubectl("uncordon", node)


@contextmanager
def tenant(lab: Lab, engine: Object) -> Iterator[None]:
    """A pod of somebody else that wants one GPU; its image is the engine's, which is there."""
    container = {
        "name": "main",
        "image": engine["spec"]["containers"][0]["image"],
        "command": ["sleep", "600"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    metadata = {"name": "tenant", "namespace": "default"}
    lab.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}})
    try:
        yield
    finally:
        lab.kubectl("delete", "pod", "tenant", "-n", "default", "--grace-period=1", "--ignore-not-found")


@contextmanager
def refusing(lab: Lab, model: str, spec: Object, check: str, *, back: bool = True) -> Iterator[None]:
    """Ask for this spec under traffic: the check refuses it, the same pod answers on, and no client notices."""
    uids = lab.ready_uids(model)
    with lab.traffic(model, clients=2) as flow:
        change(lab, model, **spec)
        lab.until(f"{check} refuses", lambda: rollout(lab, model).get("refusedBy") == check)
        yield
        seen = flow.finished
        lab.until("it answers on", lambda: flow.finished >= seen + 3)
        assert lab.ready_uids(model) == uids and answers_now(lab, model)
        if back:
            change(lab, model, resources=BOTH_GPUS)
            lab.until_ready(model)
            assert lab.ready_uids(model) == uids, "the old spec is the old revision: nothing restarts"
    flow.assert_clean(5)


def change(lab: Lab, model: str, *, source: str = MODEL, **spec: Any) -> None:
    lab.apply(llm(model, source=source, **spec))


def test_a_typing_error_in_the_claim_costs_nothing_and_its_correction_rolls_out(lab: Lab) -> None:
    with lab.model("claimed") as model:
        lab.until_ready(model)
        uids = lab.ready_uids(model)
        with lab.traffic(model, clients=2) as flow:
            change(lab, model, source="pvc://no-such-claim/model.gguf")
            lab.until("Stalled says so", lambda: stalled(lab, model, "ClaimNotFound"))
            assert lab.ready_uids(model) == uids and answers_now(lab, model)
            assert "no-such-claim" in lab.condition(model, "ModelAvailable")["message"]
            change(lab, model, engine={"maxModelLen": 1024})
            lab.until_ready(model)
            assert not lab.ready_uids(model) & uids
        flow.assert_clean(5)


@pytest.fixture(scope="class")
def model(lab: Lab) -> Iterator[str]:
    """It holds both GPUs, for the tests of a class."""
    with lab.model("only", resources=BOTH_GPUS) as model:
        lab.until_ready(model)
        yield model


class TestTheOnlyGpu:
    """One model is asked again and again for what cannot start, and never leaves its place."""

    @pytest.mark.parametrize(
        ("check", "named", "spec"),
        [
            ("its_image_can_be_pulled", NO_SUCH_IMAGE, {"engine": {"image": NO_SUCH_IMAGE}}),
            ("its_container_can_be_made", "no-such-secret", {"engine": {"env": [NO_SUCH_SECRET]}}),
            ("a_node_takes_it", "node", {"placement": {"nodeSelector": {"gpu": "h200"}}}),
            ("its_files_are_good", "corrupt.gguf", {"source": "pvc://bad-models/corrupt.gguf"}),
            ("its_container_can_be_made", "--no-such-option", {"engine": {"extraArgs": ["--no-such-option"]}}),
        ],
        ids=["image", "secret", "label", "file", "arguments"],
    )
    def test_is_kept_from_a_successor_that_cannot_start(
        self, lab: Lab, model: str, bad_models: None, check: str, named: str, spec: Object
    ) -> None:
        with refusing(lab, model, {"resources": BOTH_GPUS, **spec}, check):
            assert named in lab.condition(model, "Ready")["message"]

    def test_is_kept_while_a_quota_allows_no_more(self, lab: Lab, model: str) -> None:
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team", "namespace": "default"}}
        lab.apply({**quota, "spec": {"hard": {"requests.cpu": "8"}}})
        try:
            with refusing(lab, model, {"resources": {**BOTH_GPUS, "cpu": "16"}}, "the_quota_allows_it"):
                assert "quota team allows 8" in lab.condition(model, "Ready")["message"]
        finally:
            lab.kubectl("delete", "resourcequota", "team", "-n", "default")

    def test_is_kept_while_the_node_is_cordoned_and_rolls_out_afterwards(self, lab: Lab, model: str) -> None:
        uids = lab.ready_uids(model)
        changed = {"resources": BOTH_GPUS, "engine": {"maxModelLen": 1024}}
        with cordoned(lab, "node-1"), refusing(lab, model, changed, "a_node_takes_it", back=False):
            pass
        lab.until_ready(model)
        lab.until("another pod serves", lambda: not lab.ready_uids(model) & uids)


@pytest.mark.timeout(400)
def test_after_an_out_of_memory_loop_on_the_only_gpu_the_old_revision_answers_again(lab: Lab) -> None:
    """A check cannot foresee it. Requests are held meanwhile, and no client sees more than a late answer."""
    with lab.model("oomed", resources=BOTH_GPUS) as model:
        start_s = time.monotonic()
        first = lab.until_ready(model)["status"]["revision"]
        start_s = time.monotonic() - start_s
        with lab.traffic(model, clients=2) as flow:
            change(lab, model, resources={**BOTH_GPUS, "memory": "128Mi"})
            lab.until("nobody answers", lambda: not answers_now(lab, model), every_s=0.1)
            gone_at = time.monotonic()
            plan = rollout(lab, model)
            assert plan["strategy"] == "Recreate" and len(plan["steps"]) == 3 and plan["expectedGapSeconds"] > 0
            lab.until("somebody answers again", lambda: answers_now(lab, model), 150, every_s=0.1)
            gap_s = time.monotonic() - gone_at
            seen = flow.finished
            lab.until("held requests are answered", lambda: flow.finished >= seen + 3)
        flow.assert_clean(3)
        status = lab.get("llm", model)["status"]
        serving = [item["name"] for item in status["revisions"] if item.get("readyReplicas")]
        assert serving == [first]
        assert lab.condition(model, "Stalled")["status"] == "True"
        assert status["lastRollout"]["measuredGapSeconds"] >= 1
        assert gap_s <= start_s + 60, f"{gap_s:.0f} s without an answer; a start takes {start_s:.0f} s"


@pytest.mark.timeout(400)
def test_of_two_replicas_an_out_of_memory_loop_costs_one_for_a_while(lab: Lab) -> None:
    one_gpu: Object = {"accelerator": {"count": 1}}
    with lab.model("pair", resources=one_gpu, replicas=2) as model:
        first = lab.until_ready(model, 2)["status"]["revision"]
        uids = lab.ready_uids(model)
        with lab.traffic(model, clients=2) as flow:
            change(lab, model, resources={**one_gpu, "memory": "128Mi"}, replicas=2)
            lab.until("one of two makes way", lambda: rollout(lab, model).get("phase") == "Swapping", every_s=0.1)

            def returned() -> bool:
                assert answers_now(lab, model), "one of the two always answers"
                return rollout(lab, model).get("strategy") == "Rollback" and len(lab.ready_uids(model)) == 2

            lab.until("both serve again", returned, 150)
        flow.assert_clean(5)
        assert lab.ready_uids(model) & uids, "one of the two was never touched"
        status = lab.get("llm", model)["status"]
        assert [item["name"] for item in status["revisions"] if item.get("readyReplicas")] == [first]
        assert lab.condition(model, "Stalled")["status"] == "True"


def test_who_takes_the_gpu_halfway_is_named_and_the_old_revision_serves_when_they_leave(lab: Lab) -> None:
    with lab.model("robbed", resources=BOTH_GPUS) as model:
        ready = lab.until_ready(model)
        # The tenant waits for a GPU since before the successor did.
        with tenant(lab, lab.pods(model)[0]), lab.traffic(model, clients=2) as flow:
            change(lab, model, resources=BOTH_GPUS, engine={"maxModelLen": 1024})
            lab.until("it is named", lambda: "default/tenant" in lab.condition(model, "Available")["message"])
            assert not answers_now(lab, model)
            lab.kubectl("delete", "pod", "tenant", "-n", "default", "--grace-period=1")
            lab.until("somebody answers again", lambda: answers_now(lab, model))
            seen = flow.finished
            lab.until("held requests are answered", lambda: flow.finished >= seen + 3)
        flow.assert_clean(3)
        status = lab.get("llm", model)["status"]
        serving = [item["name"] for item in status["revisions"] if item.get("readyReplicas")]
        assert serving == [ready["status"]["revision"]]


def test_a_volume_that_does_not_mount_is_told_in_the_kubelets_words(lab: Lab) -> None:
    """The pod's status says nothing of it: only an Event does."""
    spec = {"accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": "nowhere"}
    size = {"storage": "1Gi"}
    source = {"hostPath": {"path": "/no/such/directory", "type": "Directory"}}
    lab.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "nowhere"},
            "spec": {"capacity": size, "accessModes": ["ReadOnlyMany"], "storageClassName": "", **source},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "nowhere", "namespace": "default"},
            "spec": {**spec, "resources": {"requests": size}},
        },
    )
    with lab.model("unmounted", source="pvc://nowhere/model.gguf") as model:
        lab.until("the reason", lambda: lab.condition(model, "Ready")["reason"] == "VolumeNotMounted")
        message = lab.condition(model, "ModelAvailable")["message"]
        assert "hostPath type check failed" in message and "kubectl describe pod" in message
    lab.kubectl("delete", "pvc", "nowhere", "-n", "default")
    lab.kubectl("delete", "pv", "nowhere")


def test_a_proven_successor_takes_the_only_gpu_in_one_short_gap(lab: Lab) -> None:
    with lab.model("swapped", resources=BOTH_GPUS) as model:
        lab.until_ready(model)
        uids = lab.ready_uids(model)
        with lab.traffic(model, clients=2) as flow:
            change(lab, model, resources=BOTH_GPUS, engine={"maxModelLen": 1024})
            lab.until("another pod serves", lambda: lab.ready_uids(model) and not lab.ready_uids(model) & uids)
            lab.until_ready(model)
            seen = flow.finished
            lab.until("held requests are answered", lambda: flow.finished >= seen + 3)
        flow.assert_clean(5)
        last = lab.get("llm", model)["status"]["lastRollout"]
        assert last["strategy"] == "Recreate" and last["measuredGapSeconds"] >= 1
        assert not lab.list("pods", f"topmast.dev/check={model}"), "the check pod has gone"
