"""Every name that a cluster leaves on the machine, derived from the cluster's own name.

Derived, not recorded: a cluster whose state directory is lost can still be found and removed.
"""

import hashlib
import re
from dataclasses import dataclass

from topmast_cluster.errors import ClusterError

_NAME = re.compile(r"topmast(-[a-z0-9]+)*")
_MAX_NAME = 40


@dataclass(frozen=True)
class Names:
    """The names of one cluster. Interface names stay within the kernel's 15 characters."""

    cluster: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.cluster) or len(self.cluster) > _MAX_NAME:
            raise ClusterError(
                f"{self.cluster!r} is no name for a cluster: use 'topmast' or 'topmast-' and lower-case letters, "
                f"digits and dashes, at most {_MAX_NAME} characters"
            )

    @property
    def host_link(self) -> str:
        """The host's one interface into the cluster."""
        digest = hashlib.sha256(self.cluster.encode()).hexdigest()
        return f"tm-{digest[:8]}"

    @property
    def control_plane_netns(self) -> str:
        return f"{self.cluster}-cp"

    def netns(self, node: str) -> str:
        return f"{self.cluster}-{node}"

    def owns_netns(self, netns: str) -> bool:
        """Exact shapes, so that `topmast` never takes the namespaces of `topmast-test` for its own."""
        return re.fullmatch(rf"{re.escape(self.cluster)}-(cp|node-\d+)", netns) is not None

    @property
    def cgroup(self) -> str:
        return f"/{self.cluster}"

    @property
    def cni_network(self) -> str:
        return f"{self.cluster}-pods"


def node_name(number: int) -> str:
    """Nodes are node-1, node-2, ..."""
    return f"node-{number}"


def node_number(node: str) -> int:
    match = re.fullmatch(r"node-([1-9]\d?)", node)
    if match is None:
        raise ClusterError(f"there can be no node {node!r}: nodes are called node-1, node-2, ... node-99")
    return int(match[1])
