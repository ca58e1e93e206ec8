"""Control groups, version 1 or 2. Every process of a cluster lives below one group that bears the cluster's name.

That is what makes the end certain: whoever is in the group is ours, whatever its pid file says, shims included.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from topmast_cluster.errors import ClusterError
from topmast_cluster.process import reap

_ROOT = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """The mount points that processes are placed in: one for version 2; for version 1 one per controller, and the
    bare version 2 tree that often stands beside them, because runc makes groups there as well."""
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    found: list[Path] = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, _ = line.split(" ", 3)
        path = Path(target)
        if kind in ("cgroup", "cgroup2") and _ROOT in path.parents and not path.is_symlink():
            found.append(path)
    return found


@dataclass(frozen=True)
class Cgroup:
    """A group by its path from the root, `/topmast/node-1` for instance."""

    path: str

    def below(self, name: str) -> "Cgroup":
        return Cgroup(f"{self.path}/{name}")

    def directories(self) -> list[Path]:
        return [hierarchy / self.path.lstrip("/") for hierarchy in hierarchies()]

    def procs_files(self) -> list[Path]:
        return [directory / "cgroup.procs" for directory in self.directories()]

    def create(self) -> None:
        """Makes the group, and every group above it, ready to hold processes and groups of a kubelet."""
        for hierarchy in hierarchies():
            directory = hierarchy
            for part in self.path.strip("/").split("/"):
                _delegate(directory)
                directory = directory / part
                directory.mkdir(exist_ok=True)
                _inherit_cpuset(directory)

    def weigh(self, cpus: int) -> None:
        """As much CPU weight as `cpus` processors' worth of containers: a group at the root would otherwise
        weigh no more than one ordinary process beside it."""
        for directory in self.directories():
            shares, weight = directory / "cpu.shares", directory / "cpu.weight"
            if shares.exists():
                shares.write_text(str(1024 * cpus))
            elif weight.exists():
                weight.write_text(str(min(10_000, 100 * cpus)))

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Until the end of the block this process, and those that it starts, share the processors as the group's do."""
        self.create()
        moved = [
            (hierarchy / _own_path(hierarchy).lstrip("/"), directory)
            for hierarchy, directory in zip(hierarchies(), self.directories(), strict=True)
            if any((directory / name).exists() for name in ("cpu.shares", "cpu.weight"))
        ]
        for _, to in moved:
            (to / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            for back, _ in moved:
                (back / "cgroup.procs").write_text(str(os.getpid()))

    def exists(self) -> bool:
        return any(directory.exists() for directory in self.directories())

    def members(self) -> set[int]:
        """The pids in the group and in every group below it."""
        pids: set[int] = set()
        for directory in self.directories():
            for group in _tree(directory):
                with suppress(FileNotFoundError, OSError):
                    pids |= {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
        return pids

    def kill(self, timeout_s: float = 20.0) -> None:
        """SIGKILL to all members until there are none: one that forks meanwhile is caught the next time."""
        deadline = time.monotonic() + timeout_s
        seen: set[int] = set()
        while pids := self.members():
            seen |= pids
            for directory in self.directories():
                for group in _tree(directory):
                    _thaw(group)
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the processes {sorted(pids)} outlive SIGKILL: they hang in the kernel "
                    "(see /proc/PID/stack); restart the machine to be rid of them"
                )
            time.sleep(0.02)
        for pid in seen:
            reap(pid)

    def remove(self, timeout_s: float = 5.0) -> None:
        """Removes the group and all below it, deepest first. The kernel may need a moment after the last exit."""
        deadline = time.monotonic() + timeout_s
        for directory in self.directories():
            for group in reversed(_tree(directory)):
                while group.exists():
                    try:
                        group.rmdir()
                    except FileNotFoundError:
                        break
                    except OSError as busy:
                        if time.monotonic() > deadline:
                            raise ClusterError(f"the control group {group} cannot be removed: {busy}") from busy
                        time.sleep(0.02)


def _own_path(hierarchy: Path) -> str:
    """Where this process is, from the root of a hierarchy."""
    mounted = {""} if hierarchy == _ROOT else set(hierarchy.name.split(","))
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if mounted <= set(controllers.split(",")):
            return path
    return "/"


def _tree(directory: Path) -> list[Path]:
    """`directory` and all groups below it, parents first."""
    return [Path(found) for found, _, _ in os.walk(directory)]


def _delegate(directory: Path) -> None:
    """Version 2: lets groups below use the controllers. One that is not to be had stays off."""
    available, enabled = directory / "cgroup.controllers", directory / "cgroup.subtree_control"
    if not available.exists():
        return
    for controller in available.read_text().split():
        if controller not in enabled.read_text().split():
            with suppress(OSError):
                enabled.write_text(f"+{controller}")


def _inherit_cpuset(directory: Path) -> None:
    """Version 1: a new cpuset group is empty and takes no process before it is filled."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        own, above = directory / name, directory.parent / name
        if own.exists() and not (directory / "cgroup.controllers").exists() and not own.read_text().strip():
            own.write_text(above.read_text())


def _thaw(group: Path) -> None:
    """A frozen process would not die before it is thawed."""
    for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        if (group / name).exists():
            with suppress(OSError):
                (group / name).write_text(value)
