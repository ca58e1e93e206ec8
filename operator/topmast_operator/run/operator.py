"""The operator process: waits for its Lease, then watches, asks engines, works the queue and audits what it knows.

Ends with 0 on SIGTERM or SIGINT, with 1 when another process took the Lease or a part of it failed.
"""

import asyncio
import gc
import logging
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from topmast_operator.act import paths
from topmast_operator.act.client import Api, ApiError, ApiUnreachableError, FencedError
from topmast_operator.render.access import Doors
from topmast_operator.render.template import EngineDefaults
from topmast_operator.run.attention import Attention
from topmast_operator.run.engine_access import EngineAccess
from topmast_operator.run.lease import Lease, LostLeaseError
from topmast_operator.run.metrics import Metrics
from topmast_operator.run.ownership import Ownership
from topmast_operator.run.queue import WorkQueue
from topmast_operator.run.wake import WakeDoor
from topmast_operator.run.web import serve
from topmast_operator.run.worker import Reconciler, explain
from topmast_operator.watch.audit import Audit
from topmast_operator.watch.bell import Bell
from topmast_operator.watch.engines import Engines
from topmast_operator.watch.gateways import Gateways
from topmast_operator.watch.mirror import Indices, Mirror, NotSyncedError
from topmast_operator.watch.own_writes import OwnWrites
from topmast_operator.watch.references import concerned
from topmast_operator.watch.watcher import Watcher

WORKERS = 8
PASS_S = 60.0
STUCK_S = 3 * PASS_S  # a pass that outlives its own timeout is a bug that only a restart ends
AUDIT_AGAIN_S = 5.0  # after a watch had to list anew

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """The command line."""

    namespaces: tuple[str, ...]
    engine_defaults: EngineDefaults
    lease_namespace: str
    lease_name: str
    metrics_host: str
    metrics_port: int
    resync_s: float
    shared_token_file: Path | None = None  # None: nobody can wake a model
    gateway_selector: str = ""  # empty: no gateway is asked
    engine_access: EngineAccess = field(default_factory=EngineAccess)
    engine_ingress: Sequence[Mapping[str, Any]] | None = None  # of engines' NetworkPolicies; None: there are none


class Operator:
    """One process. `run` returns its exit code."""

    def __init__(self, api: Api, options: Options) -> None:
        self._api = api
        self._options = options
        self._metrics = Metrics()
        self._queue = WorkQueue()
        self._lease = Lease(api, options.lease_namespace, options.lease_name)
        self._own = OwnWrites()
        self._mirror = Mirror(self._own, options.namespaces)
        self._audit = Audit(api, self._mirror, self._own, options.namespaces)
        self._audit_now = asyncio.Event()
        self._access = options.engine_access
        self._engines = Engines(
            lambda namespace, name: self._queue.add((namespace, name)), authorise=self._access.authorization
        )
        self._gateways = Gateways(
            api,
            options.lease_namespace,
            options.gateway_selector,
            options.shared_token_file,
            lambda namespace, name: self._queue.add((namespace, name)),
        )
        acting = api.fenced(self._lease.left_s, self._own.note)
        ownership = Ownership(acting, f"{options.lease_namespace}/{options.lease_name}")
        self._reconciler = Reconciler(
            acting,
            self._mirror,
            self._engines,
            self._gateways,
            self._metrics,
            ownership,
            options.engine_defaults,
            lambda: Doors(self._access.text, options.engine_ingress),
        )
        self._busy_since: dict[int, float] = {}
        self._watcher: Watcher | None = None
        self._stop = asyncio.Event()

    async def run(self) -> int:
        # What is known of thousands of objects lives long: the default thresholds look through it again and again.
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        options = self._options
        token_file = options.shared_token_file
        more = WakeDoor(self._api, options.namespaces, token_file).routes() if token_file else ()
        web = await serve(options.metrics_host, options.metrics_port, self._metrics, self._wrong, self._not_ready, more)
        try:
            return await self._until_stopped(asyncio.create_task(self._act()))
        finally:
            await web.cleanup()

    async def _until_stopped(self, acting: asyncio.Task[None]) -> int:
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait((acting, stopped), return_when=asyncio.FIRST_COMPLETED)
        code = 0
        if acting.done():
            error = acting.exception()
            lost = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
            if isinstance(lost, LostLeaseError):
                log.error("%s: this process ends", lost)
            else:
                log.error("the operator failed", exc_info=error)
            code = 1
        stopped.cancel()
        acting.cancel()
        await asyncio.gather(acting, return_exceptions=True)
        if self._watcher:
            await asyncio.to_thread(self._watcher.stop)
        await self._lease.release()
        return code

    async def _act(self) -> None:
        await self._lease.acquire()
        self._metrics.holding.set(1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lease.keep())
            await self._wait_for_crd()
            bell = Bell(
                self._own,
                self._queue.add,
                heard=self._metrics.heard.set_to_current_time,
                attached=self._on_attached,
                listed=self._on_listed,
                concerned=partial(concerned, self._mirror),
            )
            self._watcher = Watcher(self._options.namespaces, bell)
            self._watcher.start()
            tasks.create_task(self._engines.run())
            tasks.create_task(self._gateways.run())
            tasks.create_task(self._keep_true(self._watcher))
            tasks.create_task(self._access.follow(self._wake_all))
            for number in range(WORKERS):
                tasks.create_task(self._work(number, bell))

    async def _work(self, number: int, bell: Bell) -> None:
        while True:
            key = await self._queue.take()
            await self._lease.holding.wait()
            await self._mirror.synced.wait()
            self._metrics.queue.set(len(self._queue))
            started = self._busy_since[number] = time.monotonic()
            failed = True
            wanted = Attention()
            bell.begin(key)
            try:
                async with asyncio.timeout(PASS_S):
                    wanted = await self._reconciler.reconcile(*key)
                failed = False
            except (ApiError, ApiUnreachableError, FencedError, NotSyncedError) as error:
                log.warning("%s/%s: %s", *key, explain(error))
            except TimeoutError:
                log.warning("%s/%s: a pass took longer than %.0f s and was given up", *key, PASS_S)
            except Exception:
                log.exception("%s/%s: a pass failed", *key)
            finally:
                del self._busy_since[number]
                self._queue.done(key, failed=failed)
                bell.end(key)
                if wanted.again_s is not None:
                    self._queue.add(key, min(wanted.again_s, self._options.resync_s))
                bell.waits(key, wanted.waits or failed)
                self._metrics.seconds.observe(time.monotonic() - started)
                self._metrics.reconciles.labels("failed" if failed else "done").inc()

    def _on_attached(self, indices: Indices) -> None:
        self._mirror.attach(indices)
        self._audit_now.set()

    def _on_listed(self) -> None:
        """A watch lists anew: what went away meanwhile, it does not tell."""
        if self._mirror.synced.is_set() and not self._audit_now.is_set():
            asyncio.get_running_loop().call_later(AUDIT_AGAIN_S, self._audit_now.set)

    async def _keep_true(self, watcher: Watcher) -> None:
        """Audit the indices after each start and now and then, and look at every model when that is done."""
        while True:
            await self._next_audit()
            self._audit_now.clear()
            try:
                agrees = await self._audit.agrees() or await self._audit.agrees()
            except (ApiError, ApiUnreachableError) as error:
                log.warning("the indices cannot be compared with the API server: %s", explain(error))
                await asyncio.sleep(2)
                self._audit_now.set()
                continue
            if agrees:
                self._look_over()
            elif self._mirror.synced.is_set():
                log.warning("a watch is stuck: watching starts again")
                watcher.restart()
            else:
                self._audit_now.set()

    async def _next_audit(self) -> None:
        try:
            await asyncio.wait_for(self._audit_now.wait(), self._options.resync_s * random.uniform(0.9, 1.1))
        except TimeoutError:
            return

    def _look_over(self) -> None:
        self._wake_all()
        self._mirror.synced.set()

    def _wake_all(self) -> None:
        """Every model that is known gets a pass, spread over a while but for the first time."""
        models = self._mirror.models()
        spread_s = min(self._options.resync_s / 2, len(models) * 0.02) if self._mirror.synced.is_set() else 0.0
        for key in models:
            self._queue.add(key, random.uniform(0, spread_s))

    async def _wait_for_crd(self) -> None:
        told = False
        while True:
            try:
                for path in self._model_paths():
                    await self._api.request("GET", path, query={"limit": "1"})
                return
            except ApiError as error:
                if not told:
                    hint = "install the CRD (it is part of the chart)" if error.status == 404 else "check its Role"
                    log.error("LLMDeployments cannot be read: %s; %s", explain(error), hint)
                    told = True
            except ApiUnreachableError as error:
                log.warning("%s", error)
            await asyncio.sleep(2)

    def _model_paths(self) -> list[str]:
        return [paths.models(namespace) for namespace in self._options.namespaces or (None,)]

    def _wrong(self) -> str:
        """For /healthz. An API server that is away is no reason for a restart."""
        now = time.monotonic()
        stuck = [since for since in self._busy_since.values() if now - since > STUCK_S]
        if stuck:
            return f"a pass has been running for {now - min(stuck):.0f} s"
        if self._watcher and not self._watcher.alive and not self._stop.is_set():
            return "the watching thread has ended"
        return ""

    def _not_ready(self) -> str:
        """For /readyz. A standby is ready: it can take over."""
        acting = self._lease.holding.is_set()
        return "the indices are not complete yet" if acting and not self._mirror.synced.is_set() else self._wrong()
