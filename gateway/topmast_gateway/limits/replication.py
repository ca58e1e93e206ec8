"""Keeps the counts of several gateways in step: each asks the others every second what changed.

Pulled, not pushed: nobody can write counts from outside. A peer that cannot be reached is left out, and its
counted part stays known; nothing here can stop a request.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

import aiohttp
import msgspec

from topmast_gateway.identity.shared_token import SharedToken
from topmast_gateway.limits.counters import Counters, Row
from topmast_gateway.limits.quota import HeldByRequests, QuotaEnforcer

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
_ANSWER_S: Final = 2.0
_LARGEST_BYTES: Final = 64 * 1024 * 1024
_PAGE_ROWS: Final = 5000  # of counts in an answer
_ROWS_AT_ONCE: Final = 500  # are taken over; then others have the loop
_BELIEVED_S: Final = 5.0  # a peer that has not answered for so long is taken for gone, with its open requests


@dataclass(slots=True)
class _Peer:
    """One address: who answered there, up to which version its counts are known, and when it answered last."""

    replica: str = ""
    version: int = 0
    answered_at: float = 0.0
    trouble: str = ""  # what was last said about it


class _Page(msgspec.Struct):
    """A report to another gateway: counts that changed, and what open requests hold (requests, tokens) by caller."""

    replica: str
    version: int  # up to which the counts are
    counts: list[Row]
    open: dict[str, tuple[int, int]]
    more: bool = False


_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder(_Page)


class CounterReplication:
    """Answers peers with what this gateway knows, and asks them."""

    def __init__(self, counters: Counters, quota: QuotaEnforcer) -> None:
        self._counters = counters
        self._quota = quota
        self._peers: dict[str, _Peer] = {}
        self._trouble = ""  # what was last said about finding peers

    def gateways(self) -> int:
        """How many are known to be at work, this one included."""
        return 1 + len(self._quota.peers)

    def answer(self, query: bytes) -> bytes:
        """What `GET /usage` gives; `since=<replica>:<version>` leaves out what the asker has had from this process.

        A page of it: while there is `more`, the asker asks again at once.
        """
        replica, _, version = parse_qs(query.decode("latin-1")).get("since", [""])[0].rpartition(":")
        known = replica == self._counters.replica and version.isdecimal() and len(version) < 20
        rows, reached = self._counters.changes(int(version) if known else 0, _PAGE_ROWS)
        held = {caller: (held.streams, held.tokens) for caller, held in self._quota.open.items()}
        return _encoder.encode(_Page(self._counters.replica, reached, rows, held, reached < self._counters.version))

    async def take_over(self, rows: Sequence[Sequence[Any]]) -> None:
        """Count what others counted; however many rows there are, requests are served meanwhile."""
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            self._counters.merge(rows[start : start + _ROWS_AT_ONCE], time.time())
            await asyncio.sleep(0)

    async def follow(self, peers: str | None, client: aiohttp.ClientSession, token: SharedToken) -> None:
        """Ask every address of `peers` (DNS name and port) once a second, until cancelled; None is nobody."""
        while True:
            self._counters.forget(time.time())
            if peers:
                addresses = await self._resolve(peers)
                await asyncio.gather(*(self._ask(address, client, token) for address in addresses))
                self._drop_the_silent(addresses)
            await asyncio.sleep(EVERY_S)

    async def _resolve(self, peers: str) -> set[str]:
        host, _, port = peers.rpartition(":")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("cannot find other gateways by %s (%s): limits count what this one sees", host, error)
            return set(self._peers)
        self._trouble = ""
        addresses = [str(where[0]) for *_, where in found]
        return {f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in addresses}

    async def _ask(self, address: str, client: aiohttp.ClientSession, token: SharedToken) -> None:
        peer = self._peers.setdefault(address, _Peer())
        if peer.replica == self._counters.replica:
            return  # this gateway's own address
        try:
            more = True
            while more:
                async with asyncio.timeout(_ANSWER_S):
                    url = f"http://{address}/usage?since={peer.replica}:{peer.version}"
                    page = await _fetch(url, client, token.header())
                await self._learn(peer, page)
                more = page.more and page.replica != self._counters.replica
            peer.trouble = ""
        except Exception as error:  # whatever it is: a peer must not be able to end this gateway
            if (trouble := f"{type(error).__name__}: {error}") != peer.trouble:
                peer.trouble = trouble  # once for each gateway: two that are away must not drown the log
                log.warning("the gateway at %s does not report its usage (%s)", address, trouble)

    async def _learn(self, peer: _Peer, page: _Page) -> None:
        if page.replica != self._counters.replica:
            await self.take_over(page.counts)
            if peer.replica != page.replica:
                self._quota.peers.pop(peer.replica, None)  # another process has taken over this address
            held = {caller: HeldByRequests(streams, tokens) for caller, (streams, tokens) in page.open.items()}
            self._quota.peers[page.replica] = held
        peer.replica, peer.version, peer.answered_at = page.replica, page.version, time.monotonic()

    def _drop_the_silent(self, addresses: set[str]) -> None:
        for address, peer in list(self._peers.items()):
            if time.monotonic() - peer.answered_at > _BELIEVED_S:
                self._quota.peers.pop(peer.replica, None)
                if address not in addresses:
                    del self._peers[address]


async def _fetch(url: str, client: aiohttp.ClientSession, headers: Mapping[str, str]) -> _Page:
    async with client.get(url, headers=headers, allow_redirects=False) as response:
        if response.status == 401:
            raise ValueError("it has another token: give all gateways one; a new one takes a minute to reach them")
        response.raise_for_status()
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > _LARGEST_BYTES:
                raise ValueError(f"its answer is larger than {_LARGEST_BYTES} bytes")
    return _decoder.decode(body)
