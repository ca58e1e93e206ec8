"""Keys and scrape token as the operator reads them, and goes on reading them while it runs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from pathlib import Path

import pytest

from engine_keys import new_pem, replace
from topmast_access.rules import parse_rules
from topmast_access.signing import SigningKey
from topmast_access.verifying import TokenRefused, Verifier
from topmast_operator.run import engine_access
from topmast_operator.run.engine_access import EngineAccess


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "signing.pem").write_bytes(new_pem())
    return folder


def ids(access: EngineAccess) -> set[str]:
    return set(parse_rules((access.text or "").encode()).keys)


def shown(access: EngineAccess) -> str:
    return (access.authorization("ns", "m") or "").removeprefix("Bearer ")


def test_every_key_is_published_and_one_signs(keys: Path) -> None:
    (keys / "next.pem").write_bytes(new_pem())
    (keys / "notes.txt").write_text("no key")
    access = EngineAccess(keys)
    assert ids(access) == {SigningKey((keys / name).read_bytes()).kid for name in ("signing.pem", "next.pem")}
    Verifier("ns/m").check(shown(access), parse_rules((access.text or "").encode()))
    with pytest.raises(TokenRefused, match="another model"):
        Verifier("ns/other").check(shown(access), parse_rules((access.text or "").encode()))


def test_without_keys_there_is_nothing_to_show_and_nothing_to_tell() -> None:
    access = EngineAccess()
    assert access.text is None and access.authorization("ns", "m") is None


async def test_a_key_is_replaced_while_tokens_of_both_are_good(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add, swap, remove: at each step what is shown is known to engines that heard of the step before."""
    monkeypatch.setattr(engine_access, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr("topmast_access.watched_file._LOOK_EVERY_S", 0.0)
    access, told = EngineAccess(keys), asyncio.Event()
    following = asyncio.create_task(access.follow(told.set))
    old, new = (keys / "signing.pem").read_bytes(), new_pem()
    try:
        before = parse_rules((access.text or "").encode())
        replace(keys / "next.pem", new)
        await asyncio.wait_for(told.wait(), 5)
        both = parse_rules((access.text or "").encode())
        assert set(before.keys) < set(both.keys)
        Verifier("ns/m").check(shown(access), before)
        replace(keys / "signing.pem", new)
        replace(keys / "next.pem", old)
        await asyncio.sleep(0.2)
        Verifier("ns/m").check(shown(access), both)
        told.clear()
        (keys / "next.pem").unlink()
        await asyncio.wait_for(told.wait(), 5)
        assert ids(access) == {SigningKey(new).kid}
        with pytest.raises(TokenRefused, match="not in this engine's access file"):
            Verifier("ns/m").check(shown(access), before)
    finally:
        following.cancel()


async def test_a_faulty_file_is_told_once_and_changes_nothing(
    keys: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_access, "LOOK_EVERY_S", 0.01)
    access = EngineAccess(keys)
    before = access.text
    (keys / "next.pem").write_text("-----BEGIN NONSENSE-----")
    with caplog.at_level(logging.WARNING):
        following = asyncio.create_task(access.follow(lambda: pytest.fail("nothing has changed")))
        await asyncio.sleep(0.2)
        following.cancel()
    assert access.text == before
    (said,) = [record.getMessage() for record in caplog.records]
    assert "next.pem" in said and "openssl genpkey" in said and "NONSENSE" not in said


def test_who_reads_metrics_is_told_as_a_digest(keys: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("long and random\n")
    metrics = json.loads(EngineAccess(keys, token).text or "")["metrics"]
    assert metrics == {"open": False, "token_sha256": [hashlib.sha256(b"long and random").hexdigest()]}
    assert json.loads(EngineAccess(keys, metrics_open=True).text or "")["metrics"]["open"] is True


def test_what_cannot_be_used_is_said_at_the_start(keys: Path, tmp_path: Path) -> None:
    empty = tmp_path / "token"
    empty.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        EngineAccess(keys, empty)
    with pytest.raises(OSError, match=r"signing\.pem"):
        EngineAccess(tmp_path)
    for number in range(9):
        (keys / f"{number}.pem").write_bytes(new_pem())
    with pytest.raises(ValueError, match="10 keys"):
        EngineAccess(keys)
