"""Where things lie on disk. The cache outlives clusters; a cluster's own directory is removed with it."""

import os
from dataclasses import dataclass
from pathlib import Path

from topmast_cluster.names import Names


def cache_dir() -> Path:
    """`$TOPMAST_CACHE`, else `~/.cache/topmast`: binaries, images, and the state of running clusters."""
    chosen = os.environ.get("TOPMAST_CACHE")
    return Path(chosen).expanduser().resolve() if chosen else Path.home() / ".cache" / "topmast"


@dataclass(frozen=True)
class ClusterPaths:
    """The directory of one cluster."""

    state: Path

    @classmethod
    def of(cls, names: Names) -> "ClusterPaths":
        return cls(cache_dir() / "clusters" / names.cluster)

    @property
    def record(self) -> Path:
        return self.state / "cluster.json"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def control_plane(self) -> Path:
        return self.state / "control-plane"

    def node(self, node: str) -> Path:
        return self.state / node

    @property
    def lock(self) -> Path:
        """Outside the state: removing a cluster must not remove the lock under another starter."""
        return self.state.parents[1] / "locks" / f"{self.state.name}.lock"
