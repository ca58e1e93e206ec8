"""An informer for one kind of object: list, then watch, for ever.

It keeps what it last knew while the API server is away, and replaces it as a whole by the next list. It never writes
and never decides: whoever wants to know is called after every change.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any, Generic, TypeVar

import aiohttp

from topmast_gateway.kubernetes.client import KubeClient, KubeError

log = logging.getLogger(__name__)

T = TypeVar("T")

_WATCH_S = 60  # a watch that died silently is noticed within this time and a few seconds
_FIRST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 3.0
_UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError, KubeError)
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


class Informer(Generic[T]):
    """Objects under one path, parsed by `parse`; those it parses to None are left out."""

    def __init__(
        self,
        name: str,
        path: str,
        parse: Callable[[dict[str, Any]], T | None],
        changed: Callable[[], None],
        query: Mapping[str, str] | None = None,
        page_size: int = 500,
    ) -> None:
        self.name = name
        self.items: dict[str, T] = {}
        self.synced = False  # true after the first list, and ever after
        self.is_unreachable = False  # nobody has answered the last try
        self._path = path
        self._query = dict(query or {})
        self._page_size = str(page_size)
        self._parse = parse
        self._changed = changed
        self._heard_at = time.monotonic()
        self._trouble: str | None = None
        self._unread: set[str] = set()  # by uid: objects that could not be read, and were named

    @property
    def age_s(self) -> float:
        """Seconds since the API server last said something about these objects."""
        return time.monotonic() - self._heard_at

    def restore(self, items: Mapping[str, T]) -> None:
        """Begin with what was known once, until the first list."""
        self.items, self.synced = dict(items), True
        self._changed()

    async def follow(self, client: KubeClient) -> None:
        """Run until cancelled. Every failure ends in a new list after a pause that grows to three seconds."""
        backoff = _FIRST_BACKOFF_S
        while True:
            try:
                version = await self._list(client)
                backoff = _FIRST_BACKOFF_S
                while True:
                    version = await self._watch(client, version)
            except (*_UNREACHABLE, *_UNREADABLE) as error:
                self._complain(error)
            await asyncio.sleep(backoff * random.uniform(0.5, 1))
            backoff = min(backoff * 2, _LONGEST_BACKOFF_S)

    async def _list(self, client: KubeClient) -> str:
        found: dict[str, T] = {}
        listed: set[str] = set()
        query = {**self._query, "limit": self._page_size}
        while True:
            page = await client.get(self._path, query)
            for item in page.get("items") or ():
                self._put(found, item)
                listed.add(item["metadata"]["uid"])
            if not (rest := page["metadata"].get("continue")):
                break
            query["continue"] = rest
        self._unread &= listed
        differs = found != self.items or not self.synced
        self.items, self.synced = found, True
        self._heard()
        if differs:
            self._changed()
        return str(page["metadata"]["resourceVersion"])

    async def _watch(self, client: KubeClient, version: str) -> str:
        """Follow events from `version` to the end of one watch; returns where the next one resumes."""
        query = {**self._query, "resourceVersion": version}
        events = client.watch(self._path, query, last_s=random.randint(_WATCH_S * 3 // 4, _WATCH_S))
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                kind, item = event["type"], event["object"]
                if kind == "ERROR":  # 410 most of all: the version is too old to resume from
                    raise KubeError(item.get("code", 0), item.get("message", "the watch failed"))
                version = item["metadata"]["resourceVersion"]
                self._heard()
                if kind != "BOOKMARK":
                    self._apply(kind, item)
        self._heard()
        return version

    def _apply(self, kind: str, item: dict[str, Any]) -> None:
        uid = item["metadata"]["uid"]
        before = self.items.get(uid)
        if kind == "DELETED":
            self.items.pop(uid, None)
            self._unread.discard(uid)
        else:
            self._put(self.items, item)
        if self.items.get(uid) != before:
            self._changed()

    def _put(self, items: dict[str, T], item: dict[str, Any]) -> None:
        uid = item["metadata"]["uid"]
        try:
            parsed = self._parse(item)
        except _UNREADABLE as error:
            parsed = None  # an object of another version, or of somebody's making, costs itself and nothing else
            if uid not in self._unread:
                name = item["metadata"].get("name")
                log.warning("cannot read %r of %s (%s): it is left out", name, self.name, type(error).__name__)
                self._unread.add(uid)
        else:
            self._unread.discard(uid)
        if parsed is None:
            items.pop(uid, None)
        else:
            items[uid] = parsed

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        self.is_unreachable = False
        if self._trouble:
            log.info("watching %s again", self.name)
            self._trouble = None

    def _complain(self, error: Exception) -> None:
        """Say it once per kind of trouble, not once per try."""
        self.is_unreachable = not isinstance(error, KubeError) or error.status >= 500
        if isinstance(error, KubeError) and error.status == 410:
            return
        trouble = f"{type(error).__name__}: {error}"
        if isinstance(error, KubeError) and error.status in (401, 403):
            trouble += "; give the gateway's service account get, list and watch on it"
        if isinstance(error, KubeError) and error.status == 404:
            trouble += "; is the CustomResourceDefinition installed?"
        if trouble != self._trouble:
            kept = "serving on what was last known" if self.synced else "not ready before it works"
            log.warning("cannot watch %s (%s): trying again, %s", self.name, trouble, kept)
            self._trouble = trouble
