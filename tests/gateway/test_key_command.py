"""`topmast key`: what it makes opens the gateway, it loses nobody's entry, and its errors say what to do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from gateway.stage import KEY, SECRET, SYSTEM, Gateway, Stage, eventually, hashed
from topmast_gateway.caller import Band, Caller, Limits
from topmast_gateway.entries import parse
from topmast_operator.act.client import Api
from topmast_operator.act.key_secret import KeySecret, KeySecretError
from topmast_operator.api.key_entry import described, entry, new_key
from topmast_operator.cli import key as command

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
def key(stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command in this process: its exit code, its output, its errors."""

    def run(*arguments: str, secret: str = SECRET, kubeconfig: Path | str | None = None) -> tuple[Any, str, str]:
        where = ["--secret", secret, "--kubeconfig", str(kubeconfig or stage.kubeconfig)]
        monkeypatch.setattr("sys.argv", ["topmast key", *arguments, *where])
        try:
            code: Any = command.main()
        except SystemExit as end:
            code = end.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_a_key_that_was_made_opens_and_one_that_was_revoked_does_not(key: Any, gateway: Gateway) -> None:
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


async def test_many_at_once_lose_nobodys_key(stage: Stage, own_secret: str) -> None:
    api = await Api.connect(str(stage.kubeconfig))
    try:
        changes = [KeySecret(api, SYSTEM, own_secret).add(name, hashed(name)) for name in ("a", "b", "same", "same")]
        ends = await asyncio.gather(*changes, return_exceptions=True)
    finally:
        await api.close()
    assert sorted(str(end) for end in ends)[:3] == ["None"] * 3
    assert isinstance(next(end for end in ends if end), KeySecretError)  # of two who take one name, one is told so
    assert set(stage.core.read_namespaced_secret(own_secret, SYSTEM).data) == {"first", "a", "b", "same"}


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


@pytest.mark.parametrize(
    "wrong",
    [("a/b",), ("",), ("x", "--model", "chat"), ("x", "--expires", "soon"), ("x", "--expires", "2020-01-01T00:00:00Z"),
     ("x", "--expires", "2099-01-01"), ("x", "--weight", "0"), ("x", "--priority", "urgent"),
     ("x", "--max-streams", "0"), ("x", "--budget-tokens", "1e6"), ("x", "--budget-period", "week")],
)  # fmt: skip
def test_wrong_flags_are_refused_before_anything_happens(key: Any, wrong: tuple[str, ...]) -> None:
    code, output, errors = key("create", *wrong)
    assert (code, output) == (2, "") and "error: argument" in errors


def test_the_gateway_reads_what_the_command_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["topmast key", "create", "x", *TERMS])
    terms = command._terms(command._parser().parse_args())
    made = parse("x", entry(KEY, terms))
    assert made.caller == Caller(
        "x", ("team-a/*", "ns/name"), Limits(60, 100_000, 5_000_000, "day", 8), 2.0, Band.INTERACTIVE
    )
    assert made.expires_s is not None and abs(made.expires_s - datetime.now(UTC).timestamp() - 30 * 86_400) < 60
    assert entry(KEY, {}) == hashed(KEY) and parse("x", hashed(KEY)).caller == Caller("x")


def test_keys_are_long_and_never_the_same() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000 and {len(key) for key in keys} == {43}


@pytest.mark.parametrize(
    "text", ["", hashed(KEY), "{", "{}", '{"models": 3}', '{"expires": "x"}', '{"expires": "2020-01-01"}']
)
def test_any_entry_can_be_listed(text: str) -> None:
    assert all(described(text, datetime.now(UTC)))
