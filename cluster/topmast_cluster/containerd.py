"""One node's container runtime: its configuration, image import, and what it leaves outside its own directories."""

import shutil
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from topmast_cluster.errors import ClusterError
from topmast_cluster.names import Names

PAUSE_IMAGE = "topmast/pause:1"
SHIM_SOCKETS = Path("/run/containerd/s")


@dataclass(frozen=True)
class Containerd:
    """A containerd with root, state and sockets below `directory`."""

    directory: Path

    @property
    def socket(self) -> Path:
        return self.directory / "containerd.sock"

    @property
    def config(self) -> Path:
        return self.directory / "containerd.toml"

    @property
    def state(self) -> Path:
        return self.directory / "containerd-state"

    def write_config(self, names: Names, pod_subnet: str, cni_bin_dir: Path) -> None:
        """Also the pod network: plain routed links (ptp), because two pods behind one bridge would answer each
        other past the Service's address translation wherever the kernel lacks br_netfilter."""
        for path in (self.socket, self.socket.with_name(self.socket.name + ".ttrpc")):
            if len(str(path)) > 107:  # sun_path
                raise ClusterError(
                    f"the path {path} is too long for a socket: set TOPMAST_CACHE to a directory with a shorter name"
                )
        cni = self.directory / "cni"
        cni.mkdir(parents=True, exist_ok=True)
        (cni / "10-pods.conflist").write_text(_cni_config(names.cni_network, pod_subnet, self.directory / "cni-ipam"))
        self.config.write_text(
            _CONFIG.format(
                root=self.directory / "containerd",
                state=self.state,
                socket=self.socket,
                pause=PAUSE_IMAGE,
                snapshotter=_snapshotter(self.directory),
                cni_bin=cni_bin_dir,
                cni_conf=cni,
                runc_root=self.directory / "runc",
            )
        )

    def answers(self) -> bool:
        return self._ctr("version", timeout_s=5).returncode == 0

    def import_image(self, archive: Path) -> float:
        """Takes all images of a docker or OCI archive in, unpacked; returns the seconds it took."""
        began = time.monotonic()
        done = self._ctr("images", "import", str(archive), timeout_s=1200)
        if done.returncode != 0:
            raise ClusterError(
                f"{archive} could not be imported into {self.directory.name}: {done.stderr.strip()[-500:]}; "
                "it must be an archive as written by `buildah push IMAGE docker-archive:FILE` or `docker save`"
            )
        return time.monotonic() - began

    def remove_shim_sockets(self) -> None:
        """Shims keep their sockets in one fixed place whatever the configuration says; each notes its own."""
        for note in self.state.glob("io.containerd.runtime.v2.task/*/*/address"):
            with suppress(OSError):
                own = Path(note.read_text().strip().removeprefix("unix://"))
                if own.parent == SHIM_SOCKETS:
                    own.unlink(missing_ok=True)

    def remove_cni_results(self) -> None:
        """libcni notes what it did for each pod sandbox in one fixed place for all networks."""
        sandboxes = {path.name for path in self.directory.glob("containerd/io.containerd.grpc.v1.cri/sandboxes/*")}
        for result in Path("/var/lib/cni/results").glob("*-*-*"):
            if result.name.split("-")[-2] in sandboxes:
                result.unlink(missing_ok=True)

    def _ctr(self, *arguments: str, timeout_s: float) -> "subprocess.CompletedProcess[str]":
        command = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io", *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no answer within {timeout_s:.0f} s")


def remove_dead_shim_sockets() -> None:
    """Sockets that nobody listens on any more: a containerd that was killed and started again has forgotten them.
    The youngest are spared, because between making a socket and listening on it there is a moment."""
    for path in SHIM_SOCKETS.glob("*"):
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            if time.time() - path.stat().st_mtime > 2:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()


def _snapshotter(directory: Path) -> str:
    """overlayfs, unless the directory lies on a file system that cannot carry one (a container's own overlay)."""
    probe = directory / "overlay-probe"
    parts = {name: probe / name for name in ("lower", "upper", "work", "merged")}
    for part in parts.values():
        part.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(parts["merged"])]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    if mounted:
        subprocess.run(["umount", str(parts["merged"])], capture_output=True, check=True)
    shutil.rmtree(probe)
    return "overlayfs" if mounted else "native"


def _cni_config(network: str, subnet: str, ipam_dir: Path) -> str:
    return f"""{{
  "cniVersion": "1.0.0",
  "name": "{network}",
  "plugins": [{{
    "type": "ptp",
    "ipMasq": false,
    "ipam": {{
      "type": "host-local",
      "dataDir": "{ipam_dir}",
      "ranges": [[{{"subnet": "{subnet}"}}]],
      "routes": [{{"dst": "0.0.0.0/0"}}]
    }}
  }}]
}}
"""


# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc could not set the scores that kubelet asks for, and every
# container would fail with "can't get final child's PID from pipe: EOF".
_CONFIG = """version = 2
root = "{root}"
state = "{state}"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
disable_tcp_service = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{runc_root}"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_bin}"
conf_dir = "{cni_conf}"
"""
