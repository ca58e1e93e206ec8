"""Can this machine run a cluster, and if only programs are missing, install them with one apt-get call.

Says what to do in one sentence where it cannot. Starts nothing.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from topmast_cluster.errors import MachineError
from topmast_cluster.progress import Progress

CNI_DIRS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PLUGINS = ("ptp", "host-local", "loopback")

# Program -> the Debian package that brings it.
CLUSTER_PROGRAMS = {
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "catatonit": "catatonit",
    "nft": "nftables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "mount": "mount",
    "conntrack": "conntrack",
}


def check_machine() -> None:
    """Raises MachineError where an embedded cluster is out of the question."""
    if platform.system() != "Linux":
        raise MachineError(
            f"the embedded cluster needs Linux and this is {platform.system()}: "
            "run it in a Linux virtual machine, or set KUBECONFIG to use a cluster that you have"
        )
    if os.geteuid() != 0:
        raise MachineError(
            "the embedded cluster needs root for network namespaces and containers: "
            "run the same command with sudo -E, or set KUBECONFIG to use a cluster that you have"
        )
    if not os.access("/sys/fs/cgroup", os.W_OK):
        raise MachineError(
            "the embedded cluster needs a writable /sys/fs/cgroup: in a container, start it with --privileged"
        )


def cni_bin_dir() -> Path | None:
    """The directory that holds every CNI plugin that the nodes use."""
    for directory in CNI_DIRS:
        if all((directory / plugin).is_file() for plugin in CNI_PLUGINS):
            return directory
    return None


def missing_packages(programs: dict[str, str]) -> list[str]:
    """The packages of those `programs` that are not to be found."""
    return sorted({package for program, package in programs.items() if shutil.which(program) is None})


def ensure_programs(progress: Progress, programs: dict[str, str] | None = None) -> None:
    """Installs what is missing of `programs` (default: what the cluster's nodes need)."""
    missing = missing_packages(programs if programs is not None else CLUSTER_PROGRAMS)
    if programs is None and cni_bin_dir() is None:
        missing.append("containernetworking-plugins")
    if missing:
        install_packages(missing, progress)


def install_packages(packages: list[str], progress: Progress) -> None:
    wanted = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise MachineError(
            f"these programs are missing and there is no apt-get: install {wanted} by hand and try again"
        )
    with progress.phase("Debian packages") as detail:
        detail(wanted)
        for command in (
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages],
        ):
            env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode != 0:
                raise MachineError(
                    f"`{' '.join(command)}` failed; install {wanted} by hand and try again. It said:\n"
                    + "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
                )
