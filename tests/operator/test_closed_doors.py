"""Closed doors on a real API server: access files and policies are made, kept, and never taken from somebody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from operatorlab.world import Object, Process, World

from engine_keys import new_pem
from topmast_access.rules import parse_rules
from topmast_access.signing import SigningKey

INGRESS = [{"from": [{"podSelector": {"matchLabels": {"app": "gateway"}}}], "ports": [{"port": 8000}]}]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    (folder / "signing.pem").write_bytes(new_pem())
    return folder


@pytest.fixture(scope="module")
def closed(whole_world: World, keys: Path) -> Iterator[Process]:
    """An operator that closes doors, with the rights that the chart gives it and no others."""
    arguments = ["--engine-keys", str(keys), "--closed-engines", "--engine-network-policy", json.dumps(INGRESS)]
    with whole_world.operator("--resync-s", "600", *arguments) as process:
        yield process


def key_ids(world: World, model: str) -> set[str]:
    found = world.get("configmap", f"{model}-access")
    return set(parse_rules(found["data"]["access.json"].encode()).keys) if found else set()


def kid(path: Path) -> str:
    return SigningKey(path.read_bytes()).kid


def volumes(pod: Object) -> list[Any]:
    return [item.get("configMap", {}).get("name") for item in pod["spec"]["volumes"]]


def test_a_model_is_closed_from_its_first_pod_on(world: World, closed: Process, keys: Path) -> None:
    world.apply(world.model("shut"))
    world.until_ready("shut", 1)
    (pod,) = world.pods("shut")
    assert "shut-access" in volumes(pod)
    arguments = pod["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--access-audience") + 1] == f"{world.namespace}/shut"
    assert key_ids(world, "shut") == {kid(keys / "signing.pem")}
    policy = world.get("networkpolicy", "shut-engines")
    assert policy is not None and policy["spec"]["podSelector"]["matchLabels"]["topmast.dev/model"] == "shut"
    world.kubectl("delete", "llm", "shut")
    for kind, name in (("configmap", "shut-access"), ("networkpolicy", "shut-engines")):
        world.until(f"the {kind} went with its model", lambda kind=kind, name=name: world.get(kind, name) is None)  # type: ignore[misc]


def test_what_somebody_deletes_or_changes_is_put_right(world: World, closed: Process, keys: Path) -> None:
    world.apply(world.model("kept"))
    world.until_ready("kept", 1)
    ours = {kid(keys / "signing.pem")}
    world.kubectl("delete", "configmap", "kept-access")
    world.until("it is there again", lambda: key_ids(world, "kept") == ours)
    open_to_all = json.dumps({"data": {"access.json": '{"keys": []}'}})
    world.kubectl("patch", "configmap", "kept-access", "--type=merge", "-p", open_to_all)
    world.until("it says again who may call", lambda: key_ids(world, "kept") == ours)
    world.kubectl("patch", "networkpolicy", "kept-engines", "--type=merge", "-p", '{"spec":{"ingress":[{}]}}')

    def rules() -> Any:
        policy = world.get("networkpolicy", "kept-engines")
        return policy and "from" in policy["spec"]["ingress"][0]

    world.until("the policy is closed again", rules)


def access_marks(world: World, model: str) -> bool:
    """Whether every pod of a model carries the annotation that makes its kubelet look at the file."""
    return all("topmast.dev/access" in pod["metadata"].get("annotations", {}) for pod in world.pods(model))


def test_another_key_reaches_every_model_and_restarts_no_pod(world: World, closed: Process, keys: Path) -> None:
    for name in ("one", "two"):
        world.apply(world.model(name))
    for name in ("one", "two"):
        world.until_ready(name, 1)
    pods = {name: [pod["metadata"]["uid"] for pod in world.pods(name)] for name in ("one", "two")}
    (keys / "next.pem").write_bytes(new_pem())
    try:
        both = {kid(keys / "signing.pem"), kid(keys / "next.pem")}
        world.until("both keys are known", lambda: all(key_ids(world, name) == both for name in pods))
        world.until("their kubelets are woken", lambda: all(access_marks(world, name) for name in pods))
    finally:
        (keys / "next.pem").unlink()
    one = {kid(keys / "signing.pem")}
    world.until("one key is known", lambda: all(key_ids(world, name) == one for name in pods))
    assert pods == {name: [pod["metadata"]["uid"] for pod in world.pods(name)] for name in pods}


def test_a_settled_model_is_written_once(world: World, closed: Process) -> None:
    world.apply(world.model("calm"))
    before = world.until_settled("calm", 1)
    access = world.get("configmap", "calm-access")
    world.kubectl("annotate", "llm", "calm", "example.org/look=1")  # a pass
    world.remain("nothing is written", lambda: world.get("configmap", "calm-access") == access, 2)
    assert world.versions("calm")[1:] == before[1:]


def test_a_config_map_of_somebody_else_is_left_alone_and_named(world: World, closed: Process) -> None:
    """Only labelled ones are watched, so the name is asked for before the first write."""
    theirs = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "mine-access", "namespace": world.namespace},
    }
    world.apply({**theirs, "data": {"access.json": "mine"}})
    world.apply(world.model("mine"))

    def told() -> bool:
        found = world.condition("mine", "Stalled")
        return found["status"] == "True" and found["reason"] == "NameTaken"

    world.until("the name is told", told)
    assert "A ConfigMap named mine-access" in world.condition("mine", "Stalled")["message"]
    found = world.get("configmap", "mine-access")
    assert found is not None and found["data"] == {"access.json": "mine"}
    assert "ownerReferences" not in found["metadata"]
