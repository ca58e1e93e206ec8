"""Asks every gateway for its `/queue`: what waits there, no engine can tell.

Gateways are found by their labels in the operator's own namespace and asked at their pods' addresses, one question to
each at a time, so that a silent one delays nobody. Wakes the key of a model for which somebody waits.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from topmast_operator.act import paths
from topmast_operator.act.client import Api, ApiError, ApiUnreachableError
from topmast_operator.api.facts import Facts
from topmast_operator.watch.queues import Queues, parse_answer

PORT = 8081
EVERY_S = 2.0
ROUND_S = 1.0  # a gateway that takes longer is counted in the next round
TIMEOUT_S = 5.0
STALE_S = 15.0
FIND_EVERY_S = 20.0
FIRST_ANSWERS_S = 3.0
LARGEST_BYTES = 8 * 1024 * 1024
AT_ONCE = 16
_NO_ANSWER = "no answer; a NetworkPolicy may keep the operator from its admin port"
_HINTS = {
    401: "its shared token is another one; a new one takes a minute to reach every pod",
    404: "it is older than this operator, or was started without --shared-token-file",
}

log = logging.getLogger(__name__)


@dataclass
class Gateway:
    """One pod. `heard_at` (monotonic seconds) is when it was found, until it has answered."""

    name: str
    ip: str
    ready: bool
    heard_at: float
    trouble: str = ""  # why the last question was not answered, or the one before where that is open
    asking: asyncio.Task[None] | None = None


class Gateways:
    """`add_queue` to the facts of each pass. An empty selector: there are no gateways, and nobody is asked."""

    def __init__(
        self, api: Api, namespace: str, selector: str, token_file: Path | None, wake: Callable[[str, str], None]
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._selector = selector
        self._token_file = token_file
        self._wake = wake
        self._queues = Queues()
        self._known: dict[str, Gateway] = {}  # by uid
        self._found_at = float("-inf")
        self._trouble = ""  # why they were not found last time
        self._asked = False
        self._needed, self._found, self._waited = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)

    def add_queue(self, facts: Facts) -> Facts:
        """The facts with the queue of their model, which is watched from now on if it is scaled by its load."""
        model = facts.model
        if not self._selector or model.autoscaling is None:
            self.forget(model.namespace, model.name)
            return facts
        now = time.monotonic()
        self._queues.watch(model.key, now)
        self._needed.set()
        return replace(facts, queue=replace(self._queues.queue(model.key), unknown=self._unknown(now)))

    def forget(self, namespace: str, model: str) -> None:
        self._queues.unwatch(f"{namespace}/{model}")
        if not self._queues.watched:
            self._needed.clear()

    async def introduce(self, facts: Facts) -> None:
        """Wait a moment for the first answers, so that a restart is no reason to begin a hold anew."""
        if self.add_queue(facts).queue is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._waited.wait(), FIRST_ANSWERS_S)
            self._waited.set()  # long enough for all models

    async def run(self) -> None:
        """Find and ask for ever."""
        if not self._selector:
            return
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._find())
            await self._found.wait()
            while True:
                await self._needed.wait()
                started = time.monotonic()
                await self._round(session, tasks)
                self._asked = True
                self._waited.set()
                await asyncio.sleep(max(0.0, started + EVERY_S - time.monotonic()))

    async def _find(self) -> None:
        """Look for gateways now and then. One that was not seen to go is known as silent soon enough."""
        while True:
            await self._needed.wait()
            try:
                pods = await self._api.list(paths.child("Pod", self._namespace), self._selector)
            except (ApiError, ApiUnreachableError) as error:
                self._note(f"gateway pods cannot be listed in {self._namespace}: {error}")
            else:
                self._note("")
                self._found_at = time.monotonic()
                self._take(pods)
                self._found.set()
            await asyncio.sleep(FIND_EVERY_S)

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("%s", trouble)
        self._trouble = trouble

    def _take(self, pods: list[dict[str, Any]]) -> None:
        """Keep in step with the pods that run. One that leaves is asked on: its requests still wait."""
        now = time.monotonic()
        present = {}
        for pod in pods:
            meta, status = pod["metadata"], pod.get("status", {})
            if status.get("podIP") and status.get("phase") == "Running":
                conditions = {item["type"]: item["status"] for item in status.get("conditions", ())}
                ready = conditions.get("Ready") == "True" and "deletionTimestamp" not in meta
                found = self._known.get(meta["uid"]) or Gateway(meta["name"], status["podIP"], ready, heard_at=now)
                found.ip, found.ready = status["podIP"], ready
                present[meta["uid"]] = found
        for uid in self._known.keys() - present.keys():
            self._queues.forget(uid)
        self._known = present

    async def _round(self, session: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        """Ask whoever does not owe an answer, wait for the quick ones, and look at what is known then."""
        headers = self._headers()
        for uid, gateway in self._known.items():
            if gateway.asking is None or gateway.asking.done():
                gateway.asking = tasks.create_task(self._ask(session, uid, gateway, headers))
        asking = [gateway.asking for gateway in self._known.values() if gateway.asking]
        if asking:
            await asyncio.wait(asking, timeout=ROUND_S)
        for model in self._queues.look(time.monotonic()):
            namespace, _, name = model.partition("/")
            self._wake(namespace, name)

    async def _ask(
        self, session: aiohttp.ClientSession, uid: str, gateway: Gateway, headers: Mapping[str, str]
    ) -> None:
        try:
            async with self._slots:
                answer = parse_answer(await _fetch(session, _url(gateway.ip), headers))
        except Exception as error:  # whatever is wrong there: a gateway must not be able to end the operator
            trouble = str(error) or _NO_ANSWER
            if trouble != gateway.trouble:
                log.info("gateway %s does not tell its queue: %s", gateway.name, trouble)
            gateway.trouble = trouble
            if time.monotonic() - gateway.heard_at > STALE_S:
                self._queues.forget(uid)
            return
        gateway.trouble, gateway.heard_at = "", time.monotonic()
        if self._known.get(uid) is gateway:
            self._queues.hear(uid, answer)

    def _headers(self) -> dict[str, str]:
        try:
            token = self._token_file.read_text().strip() if self._token_file else ""
        except OSError as error:
            log.warning("the shared token cannot be read: %s", error)
            token = ""
        return {"Authorization": f"Bearer {token}"}

    def _unknown(self, now: float) -> str:
        """Why somebody may wait who is not counted; empty when all gateways that serve have answered lately."""
        if not self._asked or now - self._found_at > 3 * FIND_EVERY_S:
            return self._trouble or "the gateways have not been asked yet"
        ready = [gateway for gateway in self._known.values() if gateway.ready]
        silent = [gateway for gateway in ready if now - gateway.heard_at > STALE_S]
        if not silent:
            return ""
        first = min(silent, key=lambda gateway: gateway.name)
        tell = "tells" if len(silent) == 1 else "tell"
        return f"{len(silent)} of {len(ready)} gateways {tell} no queue ({first.name}: {first.trouble or _NO_ANSWER})"


def _url(ip: str) -> str:
    return f"http://[{ip}]:{PORT}/queue" if ":" in ip else f"http://{ip}:{PORT}/queue"


async def _fetch(session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> Any:
    async with session.get(url, headers=headers, allow_redirects=False) as answer:
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}: {_HINTS.get(answer.status, 'see its log')}")
        body = bytearray()
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > LARGEST_BYTES:
                raise ValueError(f"its answer has more than {LARGEST_BYTES} bytes")
    return json.loads(body)
