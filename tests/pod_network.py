"""Addresses for pods that are played.

None of 127.0.0.0/8: Kubernetes takes no loopback address into endpoints, and its controllers would try again for ever
and tell an Event each time. 198.18.0.0/15 is nobody's but benchmarks' (RFC 2544).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network

from checkout import own_share

NETWORK = list(IPv4Network("198.18.0.0/15").subnets(new_prefix=20))[own_share(32)]


def address(number: int) -> str:
    """Of a played pod: where nobody listens, a connection is refused."""
    return str(NETWORK[number])


@contextmanager
def pod_network() -> Iterator[None]:
    """Until the end of the block all these addresses are this machine's own, reached through its loopback interface."""
    route = ["local", str(NETWORK), "dev", "lo"]
    subprocess.run(["ip", "route", "replace", *route], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "route", "del", *route], check=False, capture_output=True)
