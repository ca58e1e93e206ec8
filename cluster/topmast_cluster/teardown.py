"""The end of a cluster: nothing of it stays, whatever was alive, and however the last run ended.

Works from the cluster's name and the machine's own tables, not from records, which a crash may have spoilt.
"""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from topmast_cluster import network, sysctls
from topmast_cluster.cgroups import Cgroup, hierarchies
from topmast_cluster.containerd import SHIM_SOCKETS, Containerd, remove_dead_shim_sockets
from topmast_cluster.locks import machine_lock
from topmast_cluster.names import Names
from topmast_cluster.paths import ClusterPaths
from topmast_cluster.process import ProcessId

_KUBELET_DIR = Path("/var/lib/kubelet")
_CONTAINER_LOGS = Path("/var/log/containers")


def remains(names: Names) -> list[str]:
    """What there is of the cluster, in words; empty when there is nothing."""
    found = network.leftovers(names)
    cgroup = Cgroup(names.cgroup)
    if cgroup.exists():
        found.append(f"control group {names.cgroup} with {len(cgroup.members())} processes")
    state = ClusterPaths.of(names).state
    if state.exists():
        found.append(f"directory {state}")
    mounts = _mounts_below(state)
    if mounts:
        found.append(f"{len(mounts)} mounts, {mounts[0]} the first")
    return found


def remove_everything(names: Names) -> None:
    """In this order: processes, mounts, network, groups, files. Each step expects that others have failed before."""
    paths = ClusterPaths.of(names)
    cgroup = Cgroup(names.cgroup)
    cgroup.kill()
    unmount_below(paths.state)
    with machine_lock():
        network.remove_network(names)
    cgroup.remove()
    for directory in paths.state.glob("node-*"):
        Containerd(directory).remove_shim_sockets()
        Containerd(directory).remove_cni_results()
    remove_dead_shim_sockets()
    _remove_log_links(paths.state)
    if paths.state.exists():
        shutil.rmtree(paths.state)
    with machine_lock():
        if not clusters_here():
            _remove_shared_places()
            sysctls.restore()


def clusters_here() -> list[str]:
    """The names of all clusters on this machine that have a control group."""
    return sorted({path.name for hierarchy in hierarchies() for path in hierarchy.glob("topmast*")})


def unmount_below(directory: Path) -> None:
    """Every mount in the directory, the last made first; detached at once even where something still holds it."""
    for target in reversed(_mounts_below(directory)):
        subprocess.run(["umount", "--lazy", target], capture_output=True)


def _mounts_below(directory: Path) -> list[str]:
    prefix = f"{directory}/"
    targets: list[str] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split(" ")[4].encode().decode("unicode_escape")  # a space is written \040
        if target.startswith(prefix):
            targets.append(target)
    return targets


def _remove_log_links(state: Path) -> None:
    """kubelet links every container's log into one fixed directory."""
    if not _CONTAINER_LOGS.is_dir():
        return
    for link in _CONTAINER_LOGS.iterdir():
        if link.is_symlink() and str(link.readlink()).startswith(f"{state}/"):
            link.unlink()


def _remove_shared_places() -> None:
    """Fixed directories that kubelet, libcni and shims make for all clusters: after the last one, if they are empty."""
    device_plugins = _KUBELET_DIR / "device-plugins"
    for file in ("kubelet.sock", "kubelet_internal_checkpoint", "DEPRECATION"):
        if device_plugins.is_dir() and not _other_kubelet_runs():
            (device_plugins / file).unlink(missing_ok=True)
    for directory in (
        device_plugins,
        _KUBELET_DIR,
        _CONTAINER_LOGS,
        Path("/var/lib/cni/results"),
        Path("/var/lib/cni"),
        SHIM_SOCKETS,
        SHIM_SOCKETS.parent,
    ):
        with suppress(OSError):
            directory.rmdir()


def _other_kubelet_runs() -> bool:
    """A kubelet that is none of ours (ours have all ended by now) keeps its sockets."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "comm").read_text().strip() == "kubelet" and ProcessId.of(int(entry.name)):
                    return True
    return False
