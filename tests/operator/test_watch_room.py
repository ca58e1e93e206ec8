"""How many accelerators are free for a model, and who holds the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from operatorlab import bodies, facts

from topmast_operator.api.facts import Room
from topmast_operator.watch.nodes import Node, read_node
from topmast_operator.watch.room import Holding, Rooms, count, holding

GPU = "nvidia.com/gpu"


def node(name: str = "a", gpus: int = 8, *, ready: bool = True, **spec: Any) -> Node:
    body = {
        "metadata": {"name": name, "labels": {"zone": "z1"}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "8", GPU: str(gpus)},
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }
    return read_node(bodies.stored(body))


def pod(name: str, *containers: int, node: str = "a", init: tuple[Any, ...] = (), **spec: Any) -> Holding:
    def container(gpus: int, **more: Any) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": "1", GPU: str(gpus)}}, **more}

    inits = [container(*item[:1], **(item[1] if len(item) > 1 else {})) for item in init]
    all_of_it = {"nodeName": node, "containers": [container(item) for item in containers], "initContainers": inits}
    return holding({"metadata": {"name": name, "namespace": "x"}, "spec": {**all_of_it, **spec}})


def test_what_others_hold_is_not_free_and_they_are_named() -> None:
    room = count([node("a"), node("b", 4)], [pod("p", 2), pod("q", 1, 2), pod("r", 1, node="b")], GPU)
    assert room == Room(6, 12, 2, 3, largest_node=8, holders=("x/q", "x/p", "x/r"))


def test_a_models_own_pods_hold_but_are_no_strangers() -> None:
    assert count([node()], [pod("mine", 2), pod("theirs", 1)], GPU, frozenset({"x/mine"})).holders == ("x/theirs",)


def test_an_init_container_counts_by_its_own_need_and_a_sidecar_beside_all() -> None:
    sidecar = {"restartPolicy": "Always"}
    for init, containers, held in (
        (((4,),), (1,), 4),  # what one init container needs, before the others start
        (((1,), (2,)), (2, 1), 3),
        (((1, sidecar),), (2,), 3),
        (((1, sidecar), (4,)), (2,), 5),  # the sidecar runs already
        (((4,), (1, sidecar)), (2,), 4),  # and here not yet
    ):
        assert pod("p", *containers, init=init).devices == {GPU: held}, (init, containers)


def test_devices_that_the_model_cannot_use_are_no_room() -> None:
    tainted = [{"key": "team", "value": "red", "effect": "NoSchedule"}]
    for useless in (
        node(ready=False),
        node(unschedulable=True),
        node(taints=tainted),
        node(taints=[{"key": "x", "effect": "NoExecute"}]),
    ):
        assert not useless.takes({}, ()), useless
    assert not node().takes({"zone": "z2"}, ())
    assert node(taints=[{"key": "x", "effect": "PreferNoSchedule"}]).takes({"zone": "z1"}, ())
    for toleration in (
        {"operator": "Exists"},
        {"key": "team", "operator": "Exists"},
        {"key": "team", "value": "red", "effect": "NoSchedule"},
    ):
        assert node(taints=tainted).takes({}, [toleration])
    for toleration in ({"key": "team"}, {"key": "team", "value": "red", "effect": "NoExecute"}, {"key": "other"}):
        assert not node(taints=tainted).takes({}, [toleration]), toleration


class Stub:
    """An API server with so many pods, and nodes that are known."""

    def __init__(self, pods: list[dict[str, Any]], *nodes: Node) -> None:
        self._pods, self._nodes = pods, nodes
        self.lists = 0

    def nodes(self) -> tuple[Node, ...]:
        return self._nodes

    async def pages(self, path: str, *, field_selector: str) -> AsyncIterator[list[dict[str, Any]]]:
        self.lists += 1
        for start in range(0, len(self._pods), 2):
            await asyncio.sleep(0)
            yield self._pods[start : start + 2]


def raw(name: str, **spec: Any) -> dict[str, Any]:
    container = {"resources": {"requests": {GPU: "1"}}}
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": {"nodeName": "a", "containers": [container], **spec}}


async def test_many_who_ask_at_once_cause_one_list() -> None:
    stub = Stub([raw(f"p{number}") for number in range(5)], node())
    rooms = Rooms(stub, stub)  # type: ignore[arg-type]
    model = facts.model(resources={"accelerator": {"count": 1}})
    rooms_seen = await asyncio.gather(*(rooms.room(model, {}) for _ in range(16)))
    assert {room.free for room in rooms_seen if room} == {3} and stub.lists == 1
    await rooms.room(model, {}, fresh=True)
    assert stub.lists == 2, "before something is taken away it is read anew"
    assert await rooms.room(facts.model(), {}) is None and stub.lists == 2


async def test_a_toleration_that_the_cluster_adds_by_itself_counts_and_one_that_was_lost_does_not() -> None:
    """GKE and others taint GPU nodes with the device's own name, and an admission plugin lets its users in."""
    model = facts.model(resources={"accelerator": {"count": 1}})
    tainted = node(taints=[{"key": GPU, "value": "present", "effect": "NoSchedule"}])
    stub = Stub([raw("m-1", tolerations=[{"key": GPU, "operator": "Exists"}])], tainted)
    for asked, free in ((False, 7), (True, 0)):
        room = await Rooms(stub, stub).room(model, {"ns/m-1": asked})  # type: ignore[arg-type]
        assert room is not None and room.free == free
