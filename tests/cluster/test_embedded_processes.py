"""Processes are stopped for certain, and never somebody else's."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from checkout import cluster_name
from topmast_cluster.cgroups import Cgroup
from topmast_cluster.process import ProcessId, read_pid_file, write_pid_file

Child = subprocess.Popen[bytes]


@pytest.fixture
def sleeper() -> Iterator[Child]:
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


def identity(process: Child) -> ProcessId:
    found = ProcessId.of(process.pid)
    assert found is not None
    return found


def test_a_stale_pid_file_never_kills_the_stranger_that_has_the_pid_now(sleeper: Child, tmp_path: Path) -> None:
    stale = replace(identity(sleeper), start_ticks=identity(sleeper).start_ticks - 1)
    write_pid_file(tmp_path / "pid", stale)
    read = read_pid_file(tmp_path / "pid")
    assert read == stale
    assert not read.alive()
    read.stop(grace_s=0)
    assert sleeper.poll() is None


def test_a_pid_file_of_an_earlier_boot_names_nobody(sleeper: Child) -> None:
    assert not replace(identity(sleeper), boot="another").alive()


def test_a_process_is_stopped_and_leaves_no_zombie(sleeper: Child) -> None:
    process = identity(sleeper)
    process.stop()
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], stdout=subprocess.PIPE
    )
    assert stubborn.stdout is not None
    assert stubborn.stdout.readline() == b"up\n"
    process = identity(stubborn)
    process.stop(grace_s=0.2)
    assert not process.alive()
    stubborn.stdout.close()


def test_a_zombie_counts_as_dead() -> None:
    child = subprocess.Popen(["true"])
    deadline = time.monotonic() + 60
    while ProcessId.of(child.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert Path(f"/proc/{child.pid}").exists()  # nobody has reaped it yet
    child.wait()


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"pid": 1}', "12"])
def test_a_torn_pid_file_names_nobody(tmp_path: Path, torn: str) -> None:
    (tmp_path / "pid").write_text(torn)
    assert read_pid_file(tmp_path / "pid") is None


def test_a_group_is_killed_with_all_that_its_members_started() -> None:
    group = Cgroup(f"/{cluster_name('group')}")
    inner = group.below("inner")
    inner.create()
    files = " ".join(str(path) for path in inner.procs_files())
    enter = f"for f in {files}; do echo $$ > $f; done; sleep 300 & setsid sleep 300 & echo up; wait"
    shell = subprocess.Popen(["sh", "-c", enter], stdout=subprocess.PIPE)
    assert shell.stdout is not None
    assert shell.stdout.readline() == b"up\n"
    assert len(group.members()) == 3
    group.kill()
    group.remove()
    shell.stdout.close()
    assert group.members() == set()
    assert not group.exists()


def test_who_joins_a_group_shares_its_processors_and_leaves_it_again() -> None:
    group = Cgroup(f"/{cluster_name('joined')}")
    clients = group.below("clients")
    before = Path("/proc/self/cgroup").read_text()
    with clients.joined():
        files = [directory / name for directory in clients.directories() for name in ("cpu.shares", "cpu.weight")]
        with_processors = any(file.exists() for file in files)  # not where nobody may share them out
        child = subprocess.Popen(["sleep", "300"])
        assert ({os.getpid(), child.pid} <= group.members()) == with_processors
        child.kill()
        child.wait()
    assert Path("/proc/self/cgroup").read_text() == before
    assert group.members() == set()
    group.remove()
    assert not group.exists()
