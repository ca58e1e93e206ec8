"""The cluster's cables: a network namespace each for the control plane and every node, joined by a bridge.

The bridge stands in the control plane's namespace, so that no firewall of the host (Docker's drops what is forwarded)
has a say in it, and all rules of kube-proxy end with the nodes' namespaces. The host has one interface into the
cluster, with its routes; no firewall rule and no sysctl of the host's own network is touched.
"""

import json
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from topmast_cluster.addresses import Addresses
from topmast_cluster.errors import ClusterError
from topmast_cluster.names import Names

_NETNS = Path("/var/run/netns")
_BRIDGE = "bridge"


def host_routes() -> list[IPv4Network]:
    """Every IPv4 range that this machine knows a way to."""
    routes = json.loads(_run(["ip", "-j", "-4", "route", "show", "table", "all"]) or "[]")
    found: list[IPv4Network] = []
    for route in routes:
        with suppress(ValueError):  # "default"
            found.append(IPv4Network(route["dst"], strict=False))
    return found


def add_control_plane(names: Names, addresses: Addresses) -> None:
    """The namespace with the bridge that everything is plugged into, the host's interface first of all."""
    netns = names.control_plane_netns
    _batch(
        [
            f"netns add {netns}",
            f"link add {names.host_link} type veth peer name host netns {netns}",
            f"link set {names.host_link} alias {names.cluster}",
            f"addr add {addresses.host}/24 dev {names.host_link}",
            f"link set {names.host_link} up",
        ]
    )
    _batch(
        [
            "link set lo up",
            f"link add {_BRIDGE} type bridge",
            f"addr add {addresses.control_plane}/24 dev {_BRIDGE}",
            f"link set {_BRIDGE} up",
            f"link set host master {_BRIDGE} up",
            f"route add default via {addresses.host}",
        ],
        netns,
    )


def add_node(names: Names, addresses: Addresses, node: str, others: Iterable[str]) -> None:
    """Plugs a node in and tells everyone the way to its pods."""
    netns = names.netns(node)
    _batch(
        [
            f"netns add {netns}",
            f"link add {node} netns {names.control_plane_netns} type veth peer name eth0 netns {netns}",
        ]
    )
    _batch([f"link set {node} master {_BRIDGE} up"], names.control_plane_netns)
    _batch(
        [
            "link set lo up",
            f"addr add {addresses.node(node)}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {addresses.host}",
        ],
        netns,
    )
    _run(["ip", "netns", "exec", netns, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
    way = f"route replace {addresses.pod_subnet(node)} via {addresses.node(node)}"
    _batch([way])
    _batch([way], names.control_plane_netns)
    for other in others:
        _batch([way], names.netns(other))
        _batch([f"route replace {addresses.pod_subnet(other)} via {addresses.node(other)}"], netns)


def route_services(names: Names, addresses: Addresses, node: str) -> None:
    """Service addresses, as the host and the control plane see them, lead to `node`: its kube-proxy knows the rest."""
    way = f"route replace {addresses.services} via {addresses.node(node)}"
    _batch([way])
    _batch([way], names.control_plane_netns)


def unplug(names: Names, node: str) -> None:
    """Takes the node's network away, as a pulled cable would. Its namespace stays."""
    _batch([f"link set {node} down"], names.control_plane_netns)


def replug(names: Names, node: str) -> None:
    _batch([f"link set {node} up"], names.control_plane_netns)


def leftovers(names: Names) -> list[str]:
    """What exists of this cluster's network, in words."""
    found = [f"network namespace {netns}" for netns in _own_netns(names)]
    if _host_link_exists(names):
        found.append(f"network interface {names.host_link}")
    return found


def remove_network(names: Names) -> None:
    """Everything away, whether all of it is there or not. The routes leave with the host's interface."""
    if _host_link_exists(names):  # first: a namespace ends only a moment after its name does
        _run(["ip", "link", "delete", names.host_link])
    for netns in _own_netns(names):
        _run(["ip", "netns", "delete", netns])
    if _NETNS.is_dir() and not any(_NETNS.iterdir()):
        # `ip netns` made the directory and mounted it onto itself; the last one out takes it away.
        subprocess.run(["umount", str(_NETNS)], capture_output=True)
        with suppress(OSError):
            _NETNS.rmdir()


def _host_link_exists(names: Names) -> bool:
    return Path(f"/sys/class/net/{names.host_link}").exists()


def _own_netns(names: Names) -> list[str]:
    if not _NETNS.is_dir():
        return []
    return sorted(entry.name for entry in _NETNS.iterdir() if names.owns_netns(entry.name))


def _batch(lines: list[str], netns: str | None = None) -> None:
    _run(["ip", *(["-n", netns] if netns else []), "-batch", "-"], "\n".join(lines) + "\n")


def _run(command: list[str], stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        what = stdin.strip().replace("\n", "; ") or " ".join(command)
        raise ClusterError(f"the network could not be changed ({what}): {done.stderr.strip()}")
    return done.stdout
