"""The cluster's addresses: one /16 of 10.0.0.0/8 that nothing on this machine uses yet.

10.X.0.0/24 nodes (.1 the host, .2 the control plane, .10+n node n), 10.X.64.0/20 services, 10.X.128.0/17 pods.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network

from topmast_cluster.errors import ClusterError
from topmast_cluster.names import node_number

_FIRST, _COUNT = 64, 128


@dataclass(frozen=True)
class Addresses:
    octet: int

    @property
    def whole(self) -> IPv4Network:
        return IPv4Network(f"10.{self.octet}.0.0/16")

    @property
    def host(self) -> str:
        return f"10.{self.octet}.0.1"

    @property
    def control_plane(self) -> str:
        return f"10.{self.octet}.0.2"

    @property
    def api_url(self) -> str:
        return f"https://{self.control_plane}:6443"

    @property
    def services(self) -> str:
        return f"10.{self.octet}.64.0/20"

    @property
    def first_service(self) -> str:
        """The address of the Service `kubernetes`."""
        return f"10.{self.octet}.64.1"

    @property
    def pods(self) -> str:
        return f"10.{self.octet}.128.0/17"

    def node(self, node: str) -> str:
        return f"10.{self.octet}.0.{10 + node_number(node)}"

    def pod_subnet(self, node: str) -> str:
        return f"10.{self.octet}.{128 + node_number(node)}.0/24"


def choose_addresses(cluster: str, routes: Iterable[IPv4Network]) -> Addresses:
    """The /16 that the cluster's name prefers, or the next one that no route of this machine touches.

    A name keeps its addresses from start to start, so a kubeconfig or a browser tab stays valid.
    """
    taken = [route for route in routes if route.prefixlen > 0]
    preferred = int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:4], "big")
    for step in range(_COUNT):
        candidate = Addresses(_FIRST + (preferred + step) % _COUNT)
        if not any(candidate.whole.overlaps(route) for route in taken):
            return candidate
    raise ClusterError(
        f"every range from 10.{_FIRST}.0.0/16 to 10.{_FIRST + _COUNT - 1}.0.0/16 is already routed somewhere: "
        "remove a route (`ip route`) or stop another cluster"
    )
