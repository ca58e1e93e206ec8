"""The Lease that lets one operator process act: taken, renewed, given back; ends the process when another one has it.

Our own, because kubernetes.aio's leader election fails to create its Lease (version 37.0.2). Expiry is judged by the
local clock alone: clocks of two machines are never compared.
"""

import asyncio
import logging
import socket
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from topmast_operator.act import paths
from topmast_operator.act.client import Api, ApiError, ApiUnreachableError

DURATION_S = 15
RENEW_EVERY_S = 3.0
GIVE_UP_ACTING_S = 10.0  # before another may take it
CALL_TIMEOUT_S = 4.0

log = logging.getLogger(__name__)


class LostLeaseError(Exception):
    """Another process holds the Lease."""


class Lease:
    """One Lease object. `holding` is set while this process may act; workers wait for it before each pass."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._collection = paths.child("Lease", namespace)
        self._path = paths.child("Lease", namespace, name)
        self._name, self._namespace = name, namespace
        self.identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self.holding = asyncio.Event()
        self._renewed_at = float("-inf")

    def left_s(self) -> float:
        """Seconds for which this process may still write without hearing from the API server again; 0: not now."""
        if not self.holding.is_set():
            return 0.0
        return max(0.0, self._renewed_at + GIVE_UP_ACTING_S - time.monotonic())

    async def acquire(self) -> None:
        """Wait until this process holds the Lease."""
        seen, seen_at = None, time.monotonic()
        told = False
        while True:
            try:
                found = await self._api.get(self._path)
                if found and (version := found["metadata"]["resourceVersion"]) != seen:
                    seen, seen_at = version, time.monotonic()
                if found is None or self._is_free(found) or time.monotonic() - seen_at > _duration(found):
                    await self._write(found)
                    log.info("holding the Lease %s/%s as %s", self._namespace, self._name, self.identity)
                    return
                if not told:
                    holder = found["spec"].get("holderIdentity")
                    log.info("standing by: %s holds the Lease %s/%s", holder, self._namespace, self._name)
                    told = True
            except ApiError as error:
                if error.status == 403:
                    log.error("the Lease cannot be had: %s. Check the operator's Role.", error)
                elif error.status != 409:
                    log.warning("the Lease cannot be had yet: %s", error)
            except ApiUnreachableError as error:
                log.warning("%s", error)
            await asyncio.sleep(1.0)

    async def keep(self) -> None:
        """Renew for ever. During an outage of the API server acting pauses; LostLeaseError when another took over."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            try:
                found = await self._api.request("GET", self._path, timeout_s=CALL_TIMEOUT_S)
                if found["spec"].get("holderIdentity") != self.identity:
                    self.holding.clear()
                    raise LostLeaseError(f"{found['spec'].get('holderIdentity') or 'nobody'} holds the Lease now")
                await self._write(found)
            except (ApiError, ApiUnreachableError) as error:
                log.warning("the Lease was not renewed: %s", error)
                if isinstance(error, ApiError) and error.status == 404:
                    self.holding.clear()
                    raise LostLeaseError("the Lease was deleted") from error
            if time.monotonic() - self._renewed_at > GIVE_UP_ACTING_S and self.holding.is_set():
                log.warning("not renewed for %.0f s: nothing is written until it is", GIVE_UP_ACTING_S)
                self.holding.clear()

    async def release(self) -> None:
        """Let another process take over at once."""
        if not self.holding.is_set():
            return
        self.holding.clear()
        try:
            found = await self._api.request("GET", self._path, timeout_s=CALL_TIMEOUT_S)
            if found["spec"].get("holderIdentity") == self.identity:
                found["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.request("PUT", self._path, body=found, timeout_s=CALL_TIMEOUT_S)
        except (ApiError, ApiUnreachableError) as error:
            log.warning("the Lease was not released and will expire: %s", error)

    def _is_free(self, found: dict[str, Any]) -> bool:
        return not found.get("spec", {}).get("holderIdentity")

    async def _write(self, found: dict[str, Any] | None) -> None:
        started = time.monotonic()  # the Lease counts from before the call: an answer may be late
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = (found or {}).get("spec", {})
        mine = old.get("holderIdentity") == self.identity
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_S,
            "acquireTime": old.get("acquireTime", now) if mine else now,
            "renewTime": now,
            "leaseTransitions": old.get("leaseTransitions", 0) + (0 if mine or found is None else 1),
        }
        if found is None:
            metadata = {"name": self._name, "namespace": self._namespace}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
            await self._api.request("POST", self._collection, body=body, timeout_s=CALL_TIMEOUT_S)
        else:
            await self._api.request("PUT", self._path, body={**found, "spec": spec}, timeout_s=CALL_TIMEOUT_S)
        self._renewed_at = started
        self.holding.set()


def _duration(found: dict[str, Any]) -> float:
    return float(found.get("spec", {}).get("leaseDurationSeconds", DURATION_S))
