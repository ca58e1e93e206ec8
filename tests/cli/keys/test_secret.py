"""One entry of the Secret is changed at a time, and every refusal of the API server says what to do."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import ApiException
from urllib3.exceptions import NewConnectionError

from topmast_cli.cluster import core_api
from topmast_cli.failure import Failure
from topmast_cli.keys.secret import KeySecret


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Core:
    """The two calls of the official client; `others` change the Secret before that many of our writes."""

    def __init__(self, data: dict[str, str], *, others: int = 0, fault: Exception | None = None) -> None:
        self.data, self.version, self.others, self.fault = dict(data), 1, others, fault

    def read_namespaced_secret(self, **place: Any) -> Any:
        assert (place["namespace"], place["name"]) == ("topmast-system", "keys")
        if self.fault:
            raise self.fault
        metadata = SimpleNamespace(resource_version=str(self.version))
        return SimpleNamespace(metadata=metadata, data=dict(self.data) or None)

    def patch_namespaced_secret(self, *, body: Any, **_: Any) -> Any:
        if self.others:
            self.others -= 1
            self.version += 1
            self.data[f"others-{self.version}"] = encoded("theirs")
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise ApiException(status=409, reason="Conflict")
        changes = self.data | body["data"]
        self.data = {name: value for name, value in changes.items() if value is not None}
        return SimpleNamespace()


def keys(core: Core) -> KeySecret:
    return KeySecret(core, "topmast-system", "keys")


def refusal(status: int, message: str) -> ApiException:
    error = ApiException(status=status, reason="because")
    error.body = json.dumps({"kind": "Status", "message": message})
    return error


def test_what_others_write_meanwhile_is_kept() -> None:
    core = Core({"first": encoded("mine")}, others=3)
    keys(core).add("alice", "sha256:a")
    assert core.data["alice"] == encoded("sha256:a")
    assert set(core.data) == {"first", "alice", "others-2", "others-3", "others-4"}


def test_a_secret_that_never_stands_still_is_given_up() -> None:
    with pytest.raises(Failure, match="changed by others 5 times meanwhile: try again"):
        keys(Core({}, others=99)).add("alice", "sha256:a")


def test_a_name_is_taken_once_and_removed_once() -> None:
    core = Core({"alice": encoded("a"), "bob": encoded("b")})
    with pytest.raises(Failure, match="has a key 'alice' already: choose another name, or revoke it"):
        keys(core).add("alice", "other")
    with pytest.raises(Failure, match="has no key 'carol': `topmast key list` shows"):
        keys(core).remove("carol")
    keys(core).remove("alice")
    assert core.data == {"bob": encoded("b")}


def test_a_check_is_made_on_the_version_that_is_changed() -> None:
    """A team that was removed as its key was made would have left a key that opens nothing."""
    core, looked = Core({"first": encoded("mine")}, others=1), list[set[str]]()

    def check(entries: Mapping[str, str]) -> None:
        looked.append(set(entries))
        if "others-2" in entries:
            raise Failure("no more")

    with pytest.raises(Failure, match="no more"):
        keys(core).put("team.core", "{}", check)
    assert looked == [{"first"}, {"first", "others-2"}] and "team.core" not in core.data
    keys(core).put("first", "yours", lambda entries: None)
    assert core.data["first"] == encoded("yours")


def test_entries_are_sorted_and_unreadable_ones_are_empty() -> None:
    data = {"b": encoded("entry"), "a": "!", "c": base64.b64encode(b"\xff").decode()}
    assert list(keys(Core(data)).entries().items()) == [("a", ""), ("b", "entry"), ("c", "")]
    assert keys(Core({})).entries() == {}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            refusal(403, "no"),
            r"you may not get Secret topmast-system/keys: ask for the verbs get and patch on it \(no\)",
        ),
        (refusal(401, "Unauthorized"), r"ask for the verbs get and patch on it \(Unauthorized\)"),
        (refusal(404, "not found"), "there is no Secret topmast-system/keys: install the chart there"),
        (refusal(500, "etcd is away"), "the API server refused to get Secret topmast-system/keys: etcd is away"),
        (ApiException(status=503, reason="Service Unavailable"), "HTTP 503 Service Unavailable"),
        (NewConnectionError(None, "refused"), "did not answer"),
    ],
)
def test_every_refusal_says_what_to_do(fault: Exception, says: str) -> None:
    with pytest.raises(Failure, match=says):
        keys(Core({}, fault=fault)).entries()


@pytest.mark.parametrize(
    "content",
    [None, "", "not: [yaml", "\0", "3", "- a", "{}", "clusters: 3", "current-context: x\nclusters: 3", "kind: Config"],
)
def test_a_kubeconfig_that_cannot_be_used_is_no_traceback(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Failure) as failure:
        core_api(str(file))
    assert re.fullmatch(r"no cluster to talk to: .*[^.]\. Set KUBECONFIG, or use --kubeconfig\.", str(failure.value))


def test_a_folder_is_no_kubeconfig(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"no cluster to talk to: .*Is a directory"):
        core_api(str(tmp_path))
