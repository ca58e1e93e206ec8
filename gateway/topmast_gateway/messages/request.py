"""One request as it came: its head, its body piece by piece, and word of a client that leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

Header = tuple[bytes, bytes]  # the name in lower case


class ClientDisconnected(Exception):
    """Nobody is left to read the answer."""


class Incoming(Protocol):
    """What still comes from the client."""

    is_whole: bool  # all of the body is here

    async def read(self) -> bytes:
        """What has come of the body since the last call; empty at its end. ClientDisconnected when no more will."""

    def on_disconnect(self, call: Callable[[], None] | None) -> None:
        """Call this once when the client is gone, at once where it is already; None takes it back."""


@dataclass(slots=True)
class Request:
    """`headers` has the last one of each name, `header_list` all of them in their order. `peer` is an IP address."""

    method: str
    path: str
    query: bytes
    header_list: list[Header]
    peer: str
    incoming: Incoming
    headers: dict[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.headers = dict(self.header_list)
