"""A gateway that starts while the API server is away serves from what the last one knew; else it is not ready."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.engines import Engine
from gateway.lab.stage import KEY, Gateway, Stage, eventually, hashed
from topmast_cluster.cluster import Cluster
from topmast_gateway.identity.api_key_entry import parse_entry
from topmast_gateway.identity.caller import Limits, Team
from topmast_gateway.kubernetes.snapshot import ClusterFacts, Snapshot
from topmast_gateway.routing.model_status import ModelStatus
from topmast_gateway.routing.model_table import Model, Pod

MODEL = Model(
    "ns", "m", 7, weights=(("r1", 3),), aliases=("a",), timeouts=(("hold_s", 2.0),), status=ModelStatus("x", 3)
)
KEY_OF_ALICE = parse_entry("alice", json.dumps({"hash": hashed(KEY), "priority": "batch", "requestsPerMinute": 3}))


def facts() -> ClusterFacts:
    pod = Pod("u", "ns", "p", "ns/m", "[::1]:8000", "since", doubted=True, revision="r1")
    assert not isinstance(KEY_OF_ALICE, Team)
    return ClusterFacts({"m": {"1": MODEL}}, {"p": {"u": pod}}, [KEY_OF_ALICE], [Team("t", Limits(max_streams=1))], "s")


async def test_what_is_written_is_read_again_and_by_its_owner_alone(tmp_path: Path) -> None:
    snapshot = Snapshot(tmp_path / "snapshot.json")
    assert snapshot.load() is None
    await snapshot.save(facts())
    found = snapshot.load()
    assert found and found[0] == facts() and 0 <= found[1] < 60
    assert stat.S_IMODE((tmp_path / "snapshot.json").stat().st_mode) == 0o600
    assert [entry.name for entry in os.scandir(tmp_path)] == ["snapshot.json"]
    assert KEY.encode() not in (tmp_path / "snapshot.json").read_bytes()
    assert found[0].keys[0].caller.key_digest == found[0].keys[0].digest


async def test_one_that_is_too_old_is_of_no_use_until_the_api_server_confirms_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = Snapshot(tmp_path / "snapshot.json")
    await snapshot.save(facts())
    two_days_ago = time.time() - 2 * 86_400
    os.utime(tmp_path / "snapshot.json", (two_days_ago, two_days_ago))
    assert snapshot.load() is None and "48 hours old" in caplog.text
    await snapshot.confirm()
    assert snapshot.load() is not None


async def test_a_disk_that_takes_nothing_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    snapshot = Snapshot(tmp_path / "none" / "snapshot.json")
    for _ in range(3):
        await snapshot.save(facts())
    assert caplog.text.count("cannot be written") == 1


@given(st.binary(max_size=200) | st.sampled_from([b"{}", b"[]", b'{"format":2,"models":{},"pods":{}}', b"[" * 100_000]))
def test_no_file_is_more_than_no_snapshot(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot.json"
        path.write_bytes(content)
        assert Snapshot(path).load() is None


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def test_a_restart_while_the_api_server_is_away_keeps_serving(
    stage: Stage, cluster: Cluster, new_gateway: Callable[..., Gateway], namespace: str, tmp_path: Path
) -> None:
    flags = ("--namespace", namespace, "--snapshot", str(tmp_path / "snapshot.json"))
    async with Engine() as engine, httpx.AsyncClient(timeout=30) as client:
        stage.model(namespace, "m", access={"aliases": ["gpt-4o"]})
        stage.pod(namespace, "m", engine.ip)
        first = new_gateway(*flags).wait_ready()
        first.sees(f"{namespace}/m", 1)
        wanted = f'"{engine.ip}:8000"'
        await asyncio.to_thread(
            eventually, lambda: wanted in text(tmp_path / "snapshot.json"), "the pod is in the snapshot", 30
        )
        await asyncio.to_thread(cluster.stop_apiserver)
        try:
            first.process.kill()
            second = await asyncio.to_thread(lambda: new_gateway(*flags).wait_ready())
            never = new_gateway("--namespace", namespace)
            for key, status in ((KEY, 200), ("tm-wrong", 401)):
                headers = {"Authorization": f"Bearer {key}"}
                answer = await client.post(
                    f"{second.url}/v1/chat/completions", headers=headers, json={"model": "gpt-4o"}
                )
                assert answer.status_code == status
            assert any("serving from what was known" in line for line in second.lines)
            assert never.ready() == 503
        finally:
            await asyncio.to_thread(cluster.start_apiserver)
        stage.pod(namespace, "m", "127.0.0.9")
        await asyncio.to_thread(second.sees, f"{namespace}/m", 2, 60)
        for gateway in (second, never):
            gateway.close()
