"""Where a request comes from: the connection's address, or what a trusted proxy says of it. For limits, not identity.

X-Forwarded-For is read from its right end, because only what a trusted hop appended is worth anything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from topmast_gateway.messages.request import Request

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNKNOWN_ADDRESS = "unknown"
_MAX_HOPS = 32


class TrustedProxies:
    """Knows which networks are proxies of one's own; without any, no header is read."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def address(self, request: Request) -> str:
        """The nearest hop that is not a trusted proxy."""
        peer = _address(request.peer)
        if peer is None:
            return UNKNOWN_ADDRESS
        hops: list[bytes] = []
        if self._trusted:
            written = [value for name, value in request.header_list if name == b"x-forwarded-for"]
            hops = b",".join(written).rsplit(b",", _MAX_HOPS)[-_MAX_HOPS:] if written else []
        while hops and any(peer in network for network in self._trusted):
            before = _address(hops.pop().decode("latin-1").strip())
            if before is None:
                break  # no address: the proxy that passed it on is the last one that is known
            peer = before
        return str(peer)


@lru_cache(maxsize=4096)
def _address(text: str) -> Address | None:
    """An IP address, with or without a port; IPv4 in IPv6's clothes is IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """The address, or an IPv6 address's /64: whoever has one of those has all of them."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
