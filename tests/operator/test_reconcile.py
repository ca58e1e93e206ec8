"""From a resource to its children and its status, with the real control plane."""

from __future__ import annotations

import json
from typing import Any

from operatorlab.playkubelet import Fate
from operatorlab.world import IMAGE, Process, World

OTHER = {"source": "image:///models/other.gguf"}


def test_ten_lines_become_ready(world: World, running: Process) -> None:
    world.apply(world.model("small"))
    found = world.until_ready("small", 1)
    status = found["status"]
    assert status["phase"] == "Ready" and status["ready"] == "1/1"
    (deployment,) = world.list("deploy", "small")
    assert deployment["metadata"]["name"] == f"small-{status['revision']}"
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == IMAGE
    assert container["args"][:2] == ["serve", "/models/smollm2.gguf"]
    service = world.get("service", "small")
    assert service is not None and service["spec"]["ports"][0]["port"] == 80
    assert world.get("pdb", "small") is None, "a budget on one replica would block node drains"
    world.until_told("small", "Ready")
    assert "finalizers" not in found["metadata"] and "annotations" not in {
        key for key in found["metadata"] if "kopf" in str(found["metadata"][key])
    }


def test_pods_are_allowed_under_the_restricted_policy(world: World, running: Process) -> None:
    world.kubectl("label", "namespace", world.namespace, "pod-security.kubernetes.io/enforce=restricted")
    world.apply(world.model("tight", model={"source": "pvc://weights/a/b.gguf"}, resources={"cpu": 1, "memory": "1Gi"}))
    world.until("a pod was admitted", lambda: world.pods("tight"))
    (pod,) = world.pods("tight")
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "/models/pvc/a/b.gguf" in pod["spec"]["containers"][0]["args"]
    missing = world.until("the claim is missed", lambda: _false(world, "tight", "ModelAvailable"))
    assert missing["reason"] == "ClaimNotFound" and '"weights" not found' in missing["message"]


def test_the_values_of_variables_are_in_no_annotation_and_their_drift_is_put_right(
    world: World, running: Process
) -> None:
    variables = [{"name": "TOKEN", "value": "hunter2-in-plain-text"}, {"name": "EMPTY"}]
    world.apply(world.model("quiet", engine={"env": variables}))
    world.until_settled("quiet", 1)
    (deployment,) = world.list("deploy", "quiet")
    sets = world.kubectl("get", "replicasets", "-l", "topmast.dev/model=quiet", "-o", "json")
    found = [deployment, *json.loads(sets)["items"], *world.pods("quiet")]
    assert all("hunter2" not in json.dumps(item["metadata"].get("annotations", {})) for item in found)
    name = deployment["metadata"]["name"]
    world.kubectl("set", "env", f"deploy/{name}", "TOKEN=of-an-intruder")

    def value() -> str:
        (live,) = world.list("deploy", "quiet")
        container = live["spec"]["template"]["spec"]["containers"][0]
        return next(item["value"] for item in container["env"] if item["name"] == "TOKEN")

    world.until("the value is back", lambda: value() == "hunter2-in-plain-text")
    world.until_ready("quiet", 1)


def test_what_a_cluster_asks_of_pods_reaches_them(world: World, running: Process) -> None:
    world.kubectl("create", "serviceaccount", "models")
    asked = {
        "labels": {"kueue.x-k8s.io/queue-name": "team-a"},
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccountName": "models",
        "securityContext": {},
        "containerSecurityContext": {},
        "shmSize": "1Gi",
    }
    world.apply(world.model("asked", pod=asked, resources={"cpu": 2, "requests": {"cpu": 1}}))
    world.until_settled("asked", 1)
    (pod,) = world.pods("asked")
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert (pod["spec"]["serviceAccountName"], pod["spec"]["securityContext"]) == ("models", {})
    container = pod["spec"]["containers"][0]
    assert "securityContext" not in container
    assert container["resources"] == {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_an_idle_model_is_written_no_more(world: World, running: Process) -> None:
    """Nothing changes for three passes: neither the resource, nor a child, nor a pod."""
    world.apply(world.model("idle", replicas=2))
    before = world.until_settled("idle", 2)
    passes = running.metric('topmast_operator_reconciles_total{result="done"}')
    world.until("a pass", lambda: running.metric('topmast_operator_reconciles_total{result="done"}') >= passes + 2)
    assert world.versions("idle") == before


def test_scaling_by_the_scale_subresource(world: World, running: Process) -> None:
    world.apply(world.model("sized"))
    world.until_ready("sized", 1)
    world.kubectl("scale", "llm", "sized", "--replicas=3")
    found = world.until_ready("sized", 3)
    assert found["status"]["selector"].endswith("topmast.dev/model=sized")
    assert world.get("pdb", "sized") is not None
    world.kubectl("scale", "llm", "sized", "--replicas=1")
    world.until_ready("sized", 1)
    world.until("the budget is gone", lambda: world.get("pdb", "sized") is None)


def test_a_leaving_pod_is_announced_before_it_goes(world: World, running: Process) -> None:
    world.apply(world.model("told", replicas=2))
    world.until_ready("told", 2)
    since = world.version("pods", "told")
    world.kubectl("scale", "llm", "told", "--replicas=1")
    world.until_ready("told", 1)
    announced: set[str] = set()
    for change in world.history("pods", "told", since):  # it is announced for a second: too short for looking
        meta = change["object"]["metadata"]
        if "deletionTimestamp" in meta:
            assert announced == {meta["name"]}, "announced only as it was deleted"
            break
        if meta.get("annotations", {}).get("topmast.dev/draining") == "true":
            announced.add(meta["name"])
    assert len(announced) == 1


def test_a_spec_change_rolls_out_without_losing_a_replica(world: World, running: Process) -> None:
    world.apply(world.model("rolled", replicas=2))
    before = world.until_ready("rolled", 2)["status"]["revision"]
    world.apply(world.model("rolled", replicas=2, model=OTHER, rollout={"revisionHistoryLimit": 0}))

    def serving() -> bool:
        ready = [pod for pod in world.pods("rolled") if _is_ready(pod)]
        assert len(ready) >= 2, f"only {len(ready)} replicas were ready"
        status = world.status("rolled")
        return status["phase"] == "Ready" and status["revision"] != before

    world.until("the new revision alone", serving)
    found = world.until_ready("rolled", 2)
    (deployment,) = world.until("the old one is gone", lambda: _only_one(world.list("deploy", "rolled")))
    assert deployment["metadata"]["labels"]["topmast.dev/revision"] == found["status"]["revision"]
    world.until_told("rolled", "NewRevision")


def test_without_a_free_gpu_the_old_replica_leaves_first(world: World, running: Process) -> None:
    """Checked, announced with its steps, and only then: each is a state that the API server's history shows."""
    gpus = {"accelerator": {"count": 2}}
    world.apply(world.model("scarce", resources=gpus))
    first = world.until_ready("scarce", 1)["status"]["revision"]
    since = world.version("llm", "scarce")
    world.apply(world.model("scarce", resources=gpus, model=OTHER))
    seen: list[tuple[str, str, int]] = []
    for change in world.history("llm", "scarce", since):
        status = change["object"]["status"]
        rollout = status.get("rollout", {})
        step = (rollout.get("phase", ""), rollout.get("refusedBy", ""), status["readyReplicas"])
        if not seen or seen[-1] != step:
            seen.append(step)
        if status["revision"] != first and status["phase"] == "Ready":
            break
    phases = [phase for phase, _, _ in seen if phase]
    assert list(dict.fromkeys(phases)) == ["Waiting", "Announced", "Swapping"], seen
    assert ("Waiting", "it_was_proven_without_its_room", 1) in seen, seen
    assert all(ready == 1 for phase, _, ready in seen if phase in ("Waiting", "Announced")), seen
    found = world.until_ready("scarce", 1)["status"]
    assert "measuredGapSeconds" in found["lastRollout"]
    world.until("the check pod has gone", lambda: not world.checks("scarce"))
    world.kubectl("delete", "llm", "scarce")
    world.until("the GPUs are free again", lambda: not world.list("pods", "scarce"))


def test_a_successor_that_fails_its_check_takes_no_gpu_away(world: World, running: Process) -> None:
    gpus = {"accelerator": {"count": 2}}
    world.apply(world.model("checked", resources=gpus))
    first = world.until_ready("checked", 1)["status"]["revision"]
    uids = {pod["metadata"]["uid"] for pod in world.pods("checked")}
    corrupt = '{"code": "ModelCorrupt", "message": "/models/other.gguf is cut off. Copy it again."}'
    world.kubelet.fates["checked"] = Fate(check_ends=(10, corrupt))
    world.kubelet.fates[f"checked/{first}"] = Fate()
    world.apply(world.model("checked", resources=gpus, model=OTHER))
    stalled = world.until("Stalled", lambda: _true(world, "checked", "Stalled"))
    assert stalled["reason"] == "ModelCorrupt" and "goes on by itself" in stalled["message"]
    assert world.condition("checked", "Available")["status"] == "True"
    assert {pod["metadata"]["uid"] for pod in world.list("pods", "checked")} == uids
    world.kubelet.fates["checked"] = Fate()
    world.kubectl("delete", "pod", "-l", "topmast.dev/check=checked", "--force", "--grace-period=0")
    world.until_ready("checked", 1)
    world.kubectl("delete", "llm", "checked")
    world.until("the GPUs are free again", lambda: not world.list("pods", "checked"))


def test_a_gpu_that_is_not_there_is_told_with_numbers(world: World, running: Process) -> None:
    world.apply(world.model("greedy", resources={"accelerator": {"count": 3}}))
    short = world.until("CapacityAvailable=False", lambda: _false(world, "greedy", "CapacityAvailable"))
    assert "A replica needs 3 nvidia.com/gpu" in short["message"]
    assert "of 2 are free on 1 nodes" in short["message"]
    assert "Insufficient nvidia.com/gpu" in short["message"]
    assert world.status("greedy")["phase"] == "Pending"
    world.until_told("greedy", "Unschedulable")


def test_a_bad_model_is_given_up_and_tried_again_on_request(world: World, running: Process) -> None:
    corrupt = '{"code": "ModelCorrupt", "message": "/models/bad.gguf is cut off after 3 bytes. Copy it again."}'
    world.kubelet.fates["bad"] = Fate(ends=(10, corrupt))
    world.apply(world.model("bad"))
    stalled = world.until("Stalled", lambda: _true(world, "bad", "Stalled"))
    assert stalled["reason"] == "ModelCorrupt" and "cut off after 3 bytes" in stalled["message"]
    world.until("no pod is left", lambda: not world.list("pods", "bad"))
    world.remain("given up", lambda: not world.list("pods", "bad"), 3)
    assert world.condition("bad", "ModelAvailable")["status"] == "False"
    world.until_told("bad", "ModelCorrupt")
    world.kubelet.fates["bad"] = Fate()
    world.kubectl("annotate", "llm", "bad", "topmast.dev/retry=1")
    world.until_ready("bad", 1)
    assert world.condition("bad", "Stalled")["status"] == "False"


def test_a_bad_revision_leaves_the_good_one_serving(world: World, running: Process) -> None:
    world.apply(world.model("safe"))
    good = world.until_ready("safe", 1)["status"]["revision"]
    world.kubelet.fates["safe"] = Fate(ends=(10, '{"code": "ModelNotFound", "message": "No such file."}'))
    world.kubelet.fates[f"safe/{good}"] = Fate()
    uids = {pod["metadata"]["uid"] for pod in world.pods("safe")}
    world.apply(world.model("safe", model=OTHER))
    world.until("Stalled", lambda: _true(world, "safe", "Stalled"))
    world.until("only the good one", lambda: {pod["metadata"]["uid"] for pod in world.list("pods", "safe")} == uids)
    verdicts = {item["name"]: item["verdict"] for item in world.status("safe")["revisions"]}
    assert verdicts.pop(good) == "Proven" and list(verdicts.values()) == ["Failed"]


def test_an_image_that_cannot_be_pulled_is_told(world: World, running: Process) -> None:
    world.kubelet.fates["pull"] = Fate(waiting=("ImagePullBackOff", 'Back-off pulling image "nope:1"'))
    world.apply(world.model("pull", engine={"image": "nope:1"}))
    told = world.until("the reason", lambda: world.condition("pull", "Ready")["reason"] == "ImagePull")
    assert told and "nope:1" in world.condition("pull", "Ready")["message"]


def test_suspend_and_resume(world: World, running: Process) -> None:
    world.apply(world.model("night", replicas=2))
    world.until_ready("night", 2)
    world.apply(world.model("night", replicas=2, suspend=True))
    world.until_ready("night", 0)
    assert world.list("pods", "night") == []
    assert world.status("night")["phase"] == "Suspended"
    assert len(world.list("deploy", "night")) == 1, "the revision is kept"
    world.apply(world.model("night", replicas=2))
    world.until_ready("night", 2)


def test_delete_removes_every_child(world: World, running: Process) -> None:
    world.apply(world.model("gone", replicas=2))
    world.until_ready("gone", 2)
    world.kubectl("delete", "llm", "gone")

    def children() -> list[Any]:
        kinds = "deploy,rs,pods,service,pdb"
        return list(world.kubectl("get", kinds, "-l", "topmast.dev/model=gone", "-o", "name").split())

    world.until("nothing is left", lambda: not children())


def test_a_service_of_somebody_else_stays_theirs(world: World, running: Process) -> None:
    world.kubectl("create", "service", "clusterip", "taken", "--tcp=80:80")
    world.apply(world.model("taken"))
    stalled = world.until("Stalled", lambda: _true(world, "taken", "Stalled"))
    assert stalled["reason"] == "NameTaken"
    service = world.get("service", "taken")
    assert service is not None and service["spec"]["selector"] == {"app": "taken"}
    world.kubectl("delete", "service", "taken")
    world.until_ready("taken", 1)


def test_a_quota_is_told_as_the_reason(world: World, running: Process) -> None:
    world.kubectl("create", "quota", "none", "--hard=pods=0")
    world.apply(world.model("poor"))
    # A quota that nobody has counted yet refuses pods, too, in other words.
    world.until("the quota", lambda: "exceeded quota" in world.condition("poor", "CapacityAvailable")["message"])
    assert _false(world, "poor", "CapacityAvailable")


def test_a_deleted_child_comes_back(world: World, running: Process) -> None:
    world.apply(world.model("whole", replicas=2))
    world.until_ready("whole", 2)
    world.kubectl("delete", "service", "whole")
    world.kubectl("delete", "deploy", "-l", "topmast.dev/model=whole")
    world.until("the Service is back", lambda: world.get("service", "whole"))
    world.until("the Deployment is back", lambda: world.list("deploy", "whole"))
    world.until_ready("whole", 2)


def _is_ready(pod: Any) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _true(world: World, name: str, kind: str) -> Any:
    found = world.condition(name, kind)
    return found if found["status"] == "True" else None


def _false(world: World, name: str, kind: str) -> Any:
    found = world.condition(name, kind)
    return found if found["status"] == "False" else None


def _only_one(found: list[Any]) -> list[Any] | None:
    return found if len(found) == 1 else None
