"""Asks every engine pod about once a second what it is doing, beside all requests and never for one of them.

A pod that does not answer is asked again in the next round; what is known of it then is what this gateway has sent.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable

import aiohttp
from yarl import URL

from topmast_access.signing import EngineTokens
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.load_report import parse_metrics
from topmast_gateway.routing.model_table import Pod

log = logging.getLogger(__name__)

_EVERY_S = 1.0
_TIMEOUT = aiohttp.ClientTimeout(total=1.0, sock_connect=0.5)
_AT_ONCE = 16
LARGEST_PAGE_BYTES = 512 * 1024


class LoadScraper:
    """`pods` are asked on the port that serves requests: no other one is open to a gateway everywhere."""

    def __init__(
        self,
        client: aiohttp.ClientSession,
        pods: Callable[[], Iterable[Pod]],
        loads: EndpointLoads,
        tokens: EngineTokens | None = None,
    ) -> None:
        self._client = client
        self._tokens = tokens or EngineTokens()
        self._pods = pods
        self._loads = loads
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._silent: set[str] = set()

    async def follow(self) -> None:
        """Run until cancelled. Rounds never overlap: many slow pods make reports older, not more connections."""
        while True:
            pods = list(self._pods())
            self._silent &= {pod.uid for pod in pods}
            await asyncio.gather(*(self._ask(pod) for pod in pods))
            await asyncio.sleep(_EVERY_S * random.uniform(0.8, 1.2))

    async def _ask(self, pod: Pod) -> None:
        await asyncio.sleep(random.uniform(0, _EVERY_S / 4))  # not all pods in the same millisecond
        async with self._at_once:
            try:
                page = await self._page(pod)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                self._complain(pod, f"{type(error).__name__}: {error}")
                return
        if (report := parse_metrics(page)) is None:
            self._complain(pod, "the page has no vllm:num_requests_running and _waiting")
            return
        self._silent.discard(pod.uid)
        self._loads.reported(pod, report)

    async def _page(self, pod: Pod) -> str:
        url = URL(f"http://{pod.address}/metrics", encoded=True)
        header = self._tokens.header(pod.model)
        async with self._client.get(url, headers=header, timeout=_TIMEOUT, allow_redirects=False) as response:
            body = await response.content.read(LARGEST_PAGE_BYTES)
            while not response.content.at_eof() and len(body) < LARGEST_PAGE_BYTES:
                body += await response.content.read(LARGEST_PAGE_BYTES)
            if response.status == 401:
                raise ValueError("it does not know the key in --signing-key")
            if response.status != 200:
                raise ValueError(f"HTTP {response.status}")
        return body.decode(errors="replace")

    def _complain(self, pod: Pod, why: str) -> None:
        """Once until it answers again, and quietly: a pod that leaves is silent, too."""
        if pod.uid not in self._silent:
            self._silent.add(pod.uid)
            log.info("pod %s does not report its load (%s): counting only what this gateway sends", pod.name, why)
