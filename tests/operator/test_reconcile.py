"""From a resource to its children and its status, with the real control plane."""

from __future__ import annotations

from operatorlab.world import IMAGE, Process, World


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
    assert world.get("service", "small")["spec"]["ports"][0]["port"] == 80  # type: ignore[index]
    assert world.get("pdb", "small") is None, "a budget on one replica would block node drains"
    assert "Ready" in world.events("small")
