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


def test_a_typing_error_in_the_image_does_not_take_the_only_gpu_away(lab: Lab) -> None:
    with lab.model("imaged", resources=BOTH_GPUS) as model:
        lab.until_ready(model)
        uids = lab.ready_uids(model)
        with lab.traffic(model, clients=2) as flow:
            change(lab, model, resources=BOTH_GPUS, engine={"image": NO_SUCH_IMAGE})
            lab.until("the check refuses", lambda: rollout(lab, model).get("refusedBy") == "its_image_can_be_pulled")
            assert NO_SUCH_IMAGE in lab.condition(model, "Ready")["message"]
            assert lab.ready_uids(model) == uids and answers_now(lab, model)
            change(lab, model, resources=BOTH_GPUS)
            lab.until_ready(model)
            assert lab.ready_uids(model) == uids, "the old spec is the old revision: nothing restarts"
        flow.assert_clean(5)


def test_a_cordoned_node_is_waited_for(lab: Lab) -> None:
    with lab.model("cordoned", resources=BOTH_GPUS) as model:
        lab.until_ready(model)
        uids = lab.ready_uids(model)
        with lab.traffic(model, clients=2) as flow, cordoned(lab, "node-1"):
            change(lab, model, resources=BOTH_GPUS, engine={"maxModelLen": 1024})
            lab.until("the check refuses", lambda: rollout(lab, model).get("refusedBy") == "a_node_takes_it")
            assert lab.ready_uids(model) == uids
        flow.assert_clean(5)
        lab.until_ready(model)
        lab.until("another pod serves", lambda: not lab.ready_uids(model) & uids)


def test_a_damaged_model_is_found_without_the_gpu(lab: Lab, bad_models: None) -> None:
    with lab.model("damaged", resources=BOTH_GPUS) as model:
        lab.until_ready(model)
        uids = lab.ready_uids(model)
        with lab.traffic(model, clients=2) as flow:
            change(lab, model, source="pvc://bad-models/corrupt.gguf", resources=BOTH_GPUS)
            lab.until("Stalled says so", lambda: stalled(lab, model, "ModelCorrupt"))
            assert rollout(lab, model)["refusedBy"] == "its_files_are_good"
            assert lab.ready_uids(model) == uids and answers_now(lab, model)
        flow.assert_clean(5)


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
