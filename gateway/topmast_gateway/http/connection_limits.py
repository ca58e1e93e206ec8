"""How many connections there may be, and how many of them one address may have.

Behind a load balancer all clients share one address, and get three quarters of all connections; a stranger who opens
all that he gets leaves some for the others.
"""

from __future__ import annotations

from topmast_gateway.fairness.dynamic_threshold import DynamicThreshold
from topmast_gateway.identity.client_ip import network_of

_SHARE = 3


class ConnectionLimits:
    """Counts of what is open, by address; an IPv6 address counts as its /64."""

    def __init__(self, most: int) -> None:
        self._places = DynamicThreshold(most, _SHARE)

    @property
    def open(self) -> int:
        """How many there are."""
        return self._places.taken

    def enter(self, address: str) -> bool:
        """Whether one more may be opened; it is counted until `leave`."""
        return self._places.take(network_of(address)) is None

    def leave(self, address: str) -> None:
        """One that entered is gone."""
        self._places.give_back(network_of(address))
