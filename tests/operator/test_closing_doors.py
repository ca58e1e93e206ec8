"""Doors are closed, and opened again, for models that run: by their next revision, and by nothing else."""

from __future__ import annotations

from pathlib import Path

from operatorlab.world import Object, World

from engine_keys import new_pem
from topmast_access.rules import parse_rules
from topmast_access.signing import SigningKey


def mounted(pod: Object) -> list[str]:
    return [item["configMap"]["name"] for item in pod["spec"]["volumes"] if "configMap" in item]


def key_ids(world: World, name: str) -> set[str]:
    found = world.get("configmap", name)
    return set(parse_rules(found["data"]["access.json"].encode()).keys) if found else set()


def test_models_that_run_are_closed_by_their_next_revision_and_by_nothing_else(world: World, tmp_path: Path) -> None:
    (tmp_path / "signing.pem").write_bytes(new_pem())
    ours = {SigningKey((tmp_path / "signing.pem").read_bytes()).kid}
    with world.operator():
        world.apply(world.model("older"))
        versions = world.until_settled("older", 1)
    with world.operator("--engine-keys", str(tmp_path), "--closed-engines") as process:
        world.until("a pass", lambda: process.metric('topmast_operator_reconciles_total{result="done"}') >= 1)
        assert world.versions("older") == versions and world.get("configmap", "older-access") is None
        world.apply(world.model("older", restartAt="2030-01-01"))
        world.until("a closed pod alone", lambda: [mounted(pod) for pod in world.pods("older")] == [["older-access"]])
        world.until_ready("older", 1)
    with world.operator("--engine-keys", str(tmp_path)) as process:  # switched off: those that are closed stay so
        world.until("a pass", lambda: process.metric('topmast_operator_reconciles_total{result="done"}') >= 1)
        world.kubectl("delete", "configmap", "older-access")
        world.until("it is there again", lambda: key_ids(world, "older-access") == ours)
        world.apply(world.model("later"))
        world.until_ready("later", 1)
        assert world.get("configmap", "later-access") is None
