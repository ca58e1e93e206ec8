"""Names and addresses: derived from the cluster's name, never another cluster's, never in the machine's way."""

from ipaddress import IPv4Network

import pytest

from topmast_cluster.addresses import Addresses, choose_addresses
from topmast_cluster.errors import ClusterError
from topmast_cluster.names import Names, node_name, node_number


def test_the_hosts_interface_fits_the_kernels_15_characters() -> None:
    assert len(Names("topmast-" + "x" * 32).host_link) <= 15


def test_clusters_of_different_names_share_no_interface_and_no_group() -> None:
    one, other = Names("topmast"), Names("topmast-test")
    assert one.host_link != other.host_link
    assert one.cgroup != other.cgroup


def test_a_cluster_owns_its_own_namespaces_and_nobody_elses() -> None:
    names = Names("topmast")
    assert names.owns_netns(names.control_plane_netns)
    assert names.owns_netns(names.netns(node_name(12)))
    for stranger in ("topmast-test-cp", "topmast-test-node-1", "topmast", "topmast-cp2", "cni-1", "topmast-node-"):
        assert not names.owns_netns(stranger)


@pytest.mark.parametrize("name", ["", "k8s", "Topmast", "topmast_1", "topmast--a", "topmast/..", "topmast-" + "x" * 40])
def test_a_name_that_could_do_harm_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ClusterError, match="use 'topmast' or 'topmast-'"):
        Names(name)


@pytest.mark.parametrize("node", ["node-0", "node-100", "node-x", "worker-1"])
def test_a_node_that_cannot_be_is_refused(node: str) -> None:
    with pytest.raises(ClusterError, match="nodes are called node-1"):
        node_number(node)


def test_a_cluster_keeps_its_addresses_from_start_to_start() -> None:
    assert choose_addresses("topmast", []) == choose_addresses("topmast", [])


def test_addresses_in_use_are_avoided_and_a_default_route_is_no_use() -> None:
    free = choose_addresses("topmast", [IPv4Network("0.0.0.0/0")])
    inside = IPv4Network(f"10.{free.octet}.7.0/24")
    assert not choose_addresses("topmast", [inside]).whole.overlaps(inside)


def test_a_machine_that_routes_all_of_10_gets_a_sentence() -> None:
    with pytest.raises(ClusterError, match="stop another cluster"):
        choose_addresses("topmast", [IPv4Network("10.0.0.0/8")])


def test_nodes_services_and_pods_do_not_overlap() -> None:
    addresses = Addresses(100)
    subnets = [IPv4Network(addresses.pod_subnet(node_name(number))) for number in (1, 2, 99)]
    ranges = [IPv4Network("10.100.0.0/24"), IPv4Network(addresses.services), *subnets]
    for one in ranges:
        assert one.subnet_of(addresses.whole)
        assert [other for other in ranges if other.overlaps(one)] == [one]
    assert all(subnet.subnet_of(IPv4Network(addresses.pods)) for subnet in subnets)
