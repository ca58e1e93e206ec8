"""`topmast key` and `team` on a real API server: keys open the gateway, no entry is lost, errors say what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.lab.stage import KEY, SECRET, SYSTEM, Gateway, Stage, eventually, hashed
from topmast_cli.cluster import core_api
from topmast_cli.failure import Failure
from topmast_cli.keys import teams
from topmast_cli.keys.entry import entry
from topmast_cli.keys.secret import KeySecret
from topmast_cli.main import main
from topmast_cluster.cluster import Cluster

TERMS = [
    "--model", "team-a/*", "--model", "ns/name", "--expires", "30d", "--weight", "2", "--priority", "interactive",
    "--requests-per-minute", "60", "--tokens-per-minute", "100000", "--budget-tokens", "5000000",
    "--budget-period", "day", "--max-streams", "8",
]  # fmt: skip


@pytest.fixture
def own_secret(stage: Stage) -> Iterator[str]:
    """A Secret of keys for one test."""
    name = "keys-of-a-test"
    stage.core.create_namespaced_secret(SYSTEM, {"metadata": {"name": name}, "stringData": {"first": hashed(KEY)}})
    yield name
    stage.core.delete_namespaced_secret(name, SYSTEM)


@pytest.fixture
def topmast(stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process: its exit code, its output, its errors."""

    def run(*words: str, secret: str = SECRET, kubeconfig: Path | str | None = None) -> tuple[Any, str, str]:
        where = ["--secret", secret, "--kubeconfig", str(kubeconfig or stage.kubeconfig)]
        monkeypatch.setattr("sys.argv", ["topmast", *words, *where])
        with pytest.raises(SystemExit) as end:
            main()
        output = capsys.readouterr()
        return end.value.code, output.out, output.err

    return run


@pytest.fixture
def key(topmast: Any) -> Any:
    """`topmast key`."""
    return partial(topmast, "key")


def test_a_key_that_was_created_opens_and_one_that_was_revoked_does_not(key: Any, gateway: Gateway) -> None:
    def status(of: str) -> int:
        return httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {of}"}).status_code

    code, output, errors = key("create", "made", *TERMS)
    made = output.strip()
    assert code == 0 and re.fullmatch(r"tm-[A-Za-z0-9_-]{40}", made) and output.count(made) == 1
    assert made not in errors and "never shown again" in errors
    eventually(lambda: status(made) == 200, "it opens", 2)
    assert key("revoke", "made")[0] == 0
    eventually(lambda: status(made) == 401, "it is refused", 2)
    assert status(KEY) == 200


def test_the_list_shows_terms_and_never_a_hash(key: Any, own_secret: str) -> None:
    assert key("create", "limited", *TERMS, secret=own_secret)[0] == 0
    code, output, _ = key("list", secret=own_secret)
    lines = {line.split()[0]: line for line in output.splitlines()}
    assert code == 0 and set(lines) == {"NAME", "first", "limited"} and "sha256" not in output
    for word in ("team-a/* ns/name", "60 requests/min", "5000000 tokens/day", "8 at once", "weight 2", "interactive"):
        assert word in lines["limited"]


def test_a_team_shares_its_limit_and_its_keys_end_with_it(topmast: Any, gateway: Gateway) -> None:
    def status(of: str) -> int:
        return httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {of}"}).status_code

    assert "topmast team set core" in topmast("key", "create", "alice", "--team", "core")[2]
    assert topmast("team", "set", "core", "--max-streams", "9")[1] == "core: 9 at once\n"
    alice, bob = (topmast("key", "create", name, "--team", "core")[1].strip() for name in ("alice", "bob"))
    try:
        eventually(lambda: (status(alice), status(bob)) == (200, 200), "both open", 2)
        code, _, errors = topmast("team", "remove", "core")
        assert code == 1 and "alice, bob" in errors and status(alice) == 200
        assert topmast("team", "remove", "core", "--force")[0] == 0
        eventually(lambda: (status(alice), status(bob)) == (401, 401), "neither opens", 2)
        assert topmast("team", "set", "core")[0] == 0
        eventually(lambda: (status(alice), status(bob)) == (200, 200), "both open again", 2)
    finally:
        for name in ("alice", "bob"):
            topmast("key", "revoke", name)
        topmast("team", "remove", "core")
    assert status(KEY) == 200


def test_many_at_once_lose_nobodys_key(stage: Stage, own_secret: str) -> None:
    def add(name: str) -> Failure | None:
        try:
            KeySecret(core_api(str(stage.kubeconfig)), SYSTEM, own_secret).add(name, hashed(name))
        except Failure as failure:
            return failure
        return None

    with ThreadPoolExecutor(4) as threads:
        refused = [failure for failure in threads.map(add, ("a", "b", "same", "same")) if failure]
    assert len(refused) == 1 and "choose another name" in str(refused[0])  # of two who take one name, one is refused
    assert set(stage.core.read_namespaced_secret(own_secret, SYSTEM).data) == {"first", "a", "b", "same"}


def test_a_team_that_is_removed_while_its_keys_are_made_leaves_none_behind(stage: Stage, own_secret: str) -> None:
    """Whatever comes first: the keys are refused, or the removal is."""
    own = KeySecret(core_api(str(stage.kubeconfig)), SYSTEM, own_secret)
    own.put("team.core", "{}", lambda entries: None)

    def change(name: str) -> Failure | None:
        mine = KeySecret(core_api(str(stage.kubeconfig)), SYSTEM, own_secret)
        try:
            if name == "remove":
                mine.remove("team.core", teams.team_may_go("core", [], force=False))
            else:
                mine.add(name, entry(name, {"team": "core"}), teams.key_may_come("core"))
        except Failure as failure:
            return failure
        return None

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(change, ("a", "remove", "b")))
    assert teams.missing(own.entries()) == set() and "first" in own.entries()


def test_kubectl_topmast_is_the_same_program(cluster: Cluster, own_secret: str, tmp_path: Path) -> None:
    for point in distribution("topmast").entry_points.select(group="console_scripts"):
        script = tmp_path / point.name
        script.write_text(f"#!{sys.executable}\nfrom {point.module} import {point.attr}\n{point.attr}()\n")
        script.chmod(0o755)

    def kubectl(*words: str) -> str:
        command = [str(cluster.binaries["kubectl"]), *words]
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **cluster.environment(), "PATH": path}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    place = ("--namespace", SYSTEM, "--secret", own_secret)
    assert kubectl("topmast", "team", "set", "core", *place) == "core: none\n"
    assert "core" in kubectl("topmast", "team", "list", *place)
    assert kubectl("__complete", "topmast", "team", "re").splitlines()[0] == "remove"
    assert "first" in kubectl("topmast", "key", "list", "--namespace", SYSTEM, "--secret", own_secret)
    assert "Usage: kubectl topmast key" in kubectl("topmast", "key", "--help")
    assert kubectl("__complete", "topmast", "key", "cr").splitlines()[0] == "create"


def test_errors_say_what_to_do_and_change_nothing(key: Any, stage: Stage, own_secret: str, tmp_path: Path) -> None:
    before = stage.core.read_namespaced_secret(own_secret, SYSTEM).data
    config = yaml.safe_load(stage.kubeconfig.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": "nobody"}} for user in config["users"]]
    (tmp_path / "nobody").write_text(yaml.safe_dump(config))
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "away").write_text(yaml.safe_dump(config))
    for arguments, where, says in (
        (("create", "first"), {}, "choose another name"),
        (("revoke", "none"), {}, "topmast key list"),
        (("list",), {"secret": "no-such"}, "install the chart"),
        (("create", "x"), {"kubeconfig": tmp_path / "nobody"}, "ask for the verbs get and patch"),
        (("create", "x"), {"kubeconfig": tmp_path / "away"}, "did not answer"),
        (("create", "x"), {"kubeconfig": tmp_path / "none"}, "Set KUBECONFIG"),
    ):
        code, output, errors = key(*arguments, **{"secret": own_secret, **where})
        assert (code, output) == (1, "") and says in errors and "Traceback" not in errors
    assert stage.core.read_namespaced_secret(own_secret, SYSTEM).data == before
