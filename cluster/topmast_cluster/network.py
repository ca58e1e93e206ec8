"""The cluster's cables: one bridge on the host, and a network namespace each for the control plane and every node.

All rules of kube-proxy, forwarding switches and pod links live inside the namespaces and end with them. On the host
there are only the bridge and its routes; no firewall rule and no sysctl of the host's own network is touched.
"""

import json
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from topmast_cluster.addresses import Addresses
from topmast_cluster.errors import ClusterError
from topmast_cluster.names import Names, node_number

_NETNS = Path("/var/run/netns")


def host_routes() -> list[IPv4Network]:
    """Every IPv4 range that this machine knows a way to."""
    routes = json.loads(_run(["ip", "-j", "-4", "route", "show", "table", "all"]) or "[]")
    found: list[IPv4Network] = []
    for route in routes:
        with suppress(ValueError):  # "default"
            found.append(IPv4Network(route["dst"], strict=False))
    return found


def create_bridge(names: Names, addresses: Addresses) -> None:
    """The bridge that everything is plugged into; the host has an address on it and so reaches all of it."""
    _batch(
        [
            f"link add {names.bridge} type bridge",
            f"link set {names.bridge} alias {names.cluster}",
            f"addr add {addresses.host}/24 dev {names.bridge}",
            f"link set {names.bridge} up",
        ]
    )


def add_control_plane(names: Names, addresses: Addresses) -> None:
    _plug(names, names.control_plane_netns, 0, addresses.control_plane, addresses.host)


def add_node(names: Names, addresses: Addresses, node: str, others: Iterable[str]) -> None:
    """Plugs a node in and tells everyone the way to its pods. Between nodes the routes are direct,
    so that a firewall on the host (Docker's drops what is forwarded) has no say."""
    netns = names.netns(node)
    _plug(names, netns, node_number(node), addresses.node(node), addresses.host)
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
    _batch([f"link set {names.veth(node_number(node))} down"])


def replug(names: Names, node: str) -> None:
    _batch([f"link set {names.veth(node_number(node))} up"])


def leftovers(names: Names) -> list[str]:
    """What exists of this cluster's network, in words."""
    found = [f"network namespace {netns}" for netns in _own_netns(names)]
    if Path(f"/sys/class/net/{names.bridge}").exists():
        found.append(f"bridge {names.bridge}")
    return found


def remove_network(names: Names) -> None:
    """Everything away, whether all of it is there or not. The routes leave with the bridge."""
    for netns in _own_netns(names):
        _run(["ip", "netns", "delete", netns])
    # A namespace ends a moment after its name; the host's end of a cable must not wait for that.
    ours = [names.bridge, *(link for link in _links() if link.startswith(f"tm{names.digest}"))]
    for link in ours:
        if Path(f"/sys/class/net/{link}").exists():
            with suppress(ClusterError):
                _run(["ip", "link", "delete", link])
    if _NETNS.is_dir() and not any(_NETNS.iterdir()):
        # `ip netns` made the directory and mounted it onto itself; the last one out takes it away.
        subprocess.run(["umount", str(_NETNS)], capture_output=True)
        with suppress(OSError):
            _NETNS.rmdir()


def _plug(names: Names, netns: str, number: int, address: str, gateway: str) -> None:
    _batch(
        [
            f"netns add {netns}",
            f"link add {names.veth(number)} type veth peer name eth0 netns {netns}",
            f"link set {names.veth(number)} master {names.bridge} up",
        ]
    )
    _batch(
        [
            "link set lo up",
            f"addr add {address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {gateway}",
        ],
        netns,
    )


def _own_netns(names: Names) -> list[str]:
    if not _NETNS.is_dir():
        return []
    return sorted(entry.name for entry in _NETNS.iterdir() if names.owns_netns(entry.name))


def _links() -> list[str]:
    return [entry.name for entry in Path("/sys/class/net").iterdir()]


def _batch(lines: list[str], netns: str | None = None) -> None:
    _run(["ip", *(["-n", netns] if netns else []), "-batch", "-"], "\n".join(lines) + "\n")


def _run(command: list[str], stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        what = stdin.strip().replace("\n", "; ") or " ".join(command)
        raise ClusterError(f"the network could not be changed ({what}): {done.stderr.strip()}")
    return done.stdout
