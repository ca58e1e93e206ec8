"""The usage log: one line a request, through rotation and a full disk; and totals from it after all had gone."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.lab.stage import eventually, soon
from topmast_gateway.config import SharingConfig
from topmast_gateway.identity.caller import Caller, Limits
from topmast_gateway.identity.shared_token import SharedToken
from topmast_gateway.limits import periods
from topmast_gateway.limits.counters import Counters
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.observability.caller_usage import UsageRecord
from topmast_gateway.observability.usage_log import UsageLog, replay
from topmast_gateway.requests.accounting import Accounting


def a_use(caller: str = "alice", prompt: int = 10, output: int = 5, at: float | None = None) -> UsageRecord:
    usage = TokenUsage(prompt, cached=4, output=output, exact=True)
    return UsageRecord(time.time() if at is None else at, "req-1", caller, "ns/m", usage, 200, "answered", 1.5, 0.25)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_line_says_who_used_what_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    log = UsageLog(str(path), "r1")
    log.write(a_use(at=1_800_000_000.0))
    log.close()
    assert lines(path) == [
        {
            "time": "2027-01-15T08:00:00Z", "at": 1_800_000_000.0, "request": "req-1", "caller": "alice",
            "model": "ns/m", "prompt": 10, "cached": 4, "output": 5, "charged": 15, "exact": True, "status": 200,
            "finish": "answered", "seconds": 1.5, "queued": 0.25, "replica": "r1",
        }
    ]  # fmt: skip
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_a_team_s_budget_is_taken_up_again_too(tmp_path: Path) -> None:
    log = UsageLog(str(tmp_path / "usage.jsonl"), "r1")
    log.write(msgspec.structs.replace(a_use("alice"), team="research"))
    log.write(msgspec.structs.replace(a_use("bob"), team="research"))
    log.write(a_use("carol"))
    log.close()
    counters = Counters("r2")
    counters.merge(replay(tmp_path / "usage.jsonl", time.time()), time.time())
    month = periods.name("month", time.time())
    assert [counters.tokens(name, month) for name in ("team:research", "alice", "bob", "carol")] == [30, 15, 15, 15]


def test_a_log_that_was_moved_away_continues_in_a_new_file(tmp_path: Path) -> None:
    path, moved = tmp_path / "usage.jsonl", tmp_path / "usage.jsonl.1"
    log = UsageLog(str(path), "r1")
    log.write(a_use("before"))
    eventually(lambda: len(lines(path)) == 1, "the first line")
    path.rename(moved)
    log.write(a_use("after"))
    log.close()
    assert [line["caller"] for line in (*lines(moved), *lines(path))] == ["before", "after"]


def test_what_a_killed_gateway_left_of_a_line_costs_its_successor_none(tmp_path: Path) -> None:
    path, now = tmp_path / "usage.jsonl", time.time()
    for replica in ("one", "two"):
        log = UsageLog(str(path), replica)
        log.write(a_use(at=now))
        log.write(a_use(at=now))
        log.close()
        path.write_bytes(path.read_bytes()[:-100])  # killed while it wrote the second one
    log = UsageLog(str(path), "three")
    log.write(a_use(at=now))
    log.close()
    rows = replay(path, now)
    assert {row[0]: row[4] for row in rows if row[2] == "total"} == {"one": 15, "two": 15, "three": 15}


def test_a_full_disk_is_said_once_and_costs_nothing_but_lines(caplog: pytest.LogCaptureFixture) -> None:
    log = UsageLog("/dev/full", "r1")
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            log.write(a_use())
            time.sleep(0.01)
        log.close()
    assert log.lost == 5
    assert [record.getMessage() for record in caplog.records].count(caplog.records[0].getMessage()) == 1
    assert "No space left" in caplog.text and "requests are still served" in caplog.text


def test_a_disk_that_hangs_holds_up_nobody(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = UsageLog(str(path), "r1")  # opening it for writing waits for a reader
    start = time.thread_time()
    for _ in range(12_000):
        log.write(a_use())  # one that waited for the disk would never return
    assert time.thread_time() - start < 2 and 0 < log.lost <= 2000
    threading.Thread(target=lambda: path.read_bytes(), daemon=True).start()  # let the writer's thread go
    log.close()


def test_what_the_log_says_and_what_peers_know_is_counted_once(tmp_path: Path) -> None:
    path, now = tmp_path / "usage.jsonl", time.time()
    log, peer = UsageLog(str(path), "old"), Counters("peer")
    for _ in range(3):
        log.write(a_use(at=now))
    log.write(a_use(at=now - 70 * 86_400))
    log.close()
    nonsense = b'{"torn": \n[]\n\xff\n{"replica": "old", "caller": "alice", "charged": %s, "at": %s}\n'
    with path.open("ab") as file:
        file.write(nonsense % (b'"x"', b"1") + nonsense % (b"9", b"null") + nonsense % (b"9", b"1e300"))
        file.write(nonsense % (b"1" + b"0" * 20, b"%d" % now) + b"[" * 100_000 + b"\n")
    peer.merge([["old", "alice", "total", 0, 45, 0]], now)  # the older line was before its time
    fresh = Counters("fresh")
    fresh.merge(replay(path, now), now)
    fresh.merge(peer.changes()[0], now)
    assert fresh.tokens("alice", "total") == 60
    assert fresh.tokens("alice", periods.name("month", now)) == fresh.tokens("alice", periods.name("day", now)) == 45
    assert replay(tmp_path / "none", now) == []


async def test_gateways_that_share_a_directory_find_what_all_of_them_wrote(tmp_path: Path) -> None:
    for replica in ("one", "two"):
        log = UsageLog(str(tmp_path), replica)
        log.write(a_use())
        log.close()
    (tmp_path / "usage-two.jsonl").rename(tmp_path / "usage-two.jsonl.1")
    accounting = Accounting(SharingConfig(usage_log=str(tmp_path)), "three", dict)
    accounting.open()
    limited = Caller("alice", limits=Limits(budget_tokens=100, budget_period="day"))
    async with aiohttp.ClientSession() as client:
        following = asyncio.create_task(accounting.follow(client, SharedToken()))
        await soon(lambda: accounting.caught_up, "the log is read")
        following.cancel()
    assert accounting.quota.used(limited.accounts[0]) == 30
    await accounting.close()
