"""How many connections there may be, and how many of them one address may have.

An address may hold so many times what is free (limits/overload.py has the rule): behind a load balancer all clients
share one, and get three quarters of all connections; a stranger who opens all that he gets leaves some for the others.
"""

from __future__ import annotations

from collections import Counter

from topmast_gateway.identity.client_ip import network_of

_SHARE = 3


class ConnectionLimits:
    """Counts of what is open, by address; an IPv6 address counts as its /64."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()
        self.open = 0

    def enter(self, address: str) -> bool:
        """Whether one more may be opened; it is counted until `leave`."""
        network, free = network_of(address), self._most - self.open
        if free <= 0 or self._held[network] >= _SHARE * free:
            return False
        self._held[network] += 1
        self.open += 1
        return True

    def leave(self, address: str) -> None:
        """One that entered is gone."""
        network = network_of(address)
        self._held[network] -= 1
        if not self._held[network]:
            del self._held[network]
        self.open -= 1
