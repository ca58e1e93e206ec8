"""The operator process: waits for its Lease, then watches, asks engines, works the queue and looks over everything.

Ends with 0 on SIGTERM or SIGINT, with 1 when another process took the Lease or a part of it failed.
"""

import asyncio
import logging
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from topmast_operator.act import paths
from topmast_operator.act.client import Api, ApiError, ApiUnreachableError
from topmast_operator.run.lease import Lease, LostLeaseError
from topmast_operator.run.metrics import Metrics
from topmast_operator.run.queue import WorkQueue
from topmast_operator.run.wake import WakeDoor
from topmast_operator.run.web import serve
from topmast_operator.run.worker import Reconciler, explain
from topmast_operator.watch.engines import Engines
from topmast_operator.watch.events import Watcher
from topmast_operator.watch.gateways import Gateways

WORKERS = 8
STUCK_S = 180.0  # a pass has timeouts on every call: one that takes longer is a bug that only a restart ends

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """The command line."""

    namespaces: tuple[str, ...]
    engine_image: str
    lease_namespace: str
    lease_name: str
    metrics_host: str
    metrics_port: int
    resync_s: float
    shared_token_file: Path | None = None  # None: nobody can wake a model
    gateway_selector: str = ""  # empty: no gateway is asked


class Operator:
    """One process. `run` returns its exit code."""

    def __init__(self, api: Api, options: Options) -> None:
        self._api = api
        self._options = options
        self._metrics = Metrics()
        self._queue = WorkQueue()
        self._lease = Lease(api, options.lease_namespace, options.lease_name)
        self._engines = Engines(lambda namespace, name: self._queue.add((namespace, name)))
        self._gateways = Gateways(
            api,
            options.lease_namespace,
            options.gateway_selector,
            options.shared_token_file,
            lambda namespace, name: self._queue.add((namespace, name)),
        )
        self._reconciler = Reconciler(
            api, self._engines, self._gateways, self._metrics, options.engine_image, cluster_wide=not options.namespaces
        )
        self._busy_since: dict[int, float] = {}
        self._watcher: Watcher | None = None
        self._synced = False
        self._stop = asyncio.Event()

    async def run(self) -> int:
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
            loop = asyncio.get_running_loop()

            def wake(namespace: str, name: str) -> None:
                loop.call_soon_threadsafe(self._queue.add, (namespace, name))

            self._watcher = Watcher(self._options.namespaces, wake, self._metrics.heard.set_to_current_time)
            self._watcher.start()
            tasks.create_task(self._engines.run())
            tasks.create_task(self._gateways.run())
            tasks.create_task(self._look_over())
            for number in range(WORKERS):
                tasks.create_task(self._work(number))

    async def _work(self, number: int) -> None:
        while True:
            key = await self._queue.take()
            await self._lease.holding.wait()
            self._metrics.queue.set(len(self._queue))
            started = self._busy_since[number] = time.monotonic()
            failed = True
            try:
                again_s = await self._reconciler.reconcile(*key)
                failed = False
                if again_s is not None:
                    self._queue.add(key, again_s)
            except (ApiError, ApiUnreachableError) as error:
                log.warning("%s/%s: %s", *key, explain(error))
            except Exception:
                log.exception("%s/%s: a pass failed", *key)
            finally:
                del self._busy_since[number]
                self._queue.done(key, failed=failed)
                self._metrics.seconds.observe(time.monotonic() - started)
                self._metrics.reconciles.labels("failed" if failed else "done").inc()

    async def _look_over(self) -> None:
        """Look at every model now and then: what nobody watches (Services, budgets) drifts too, and events get lost."""
        while True:
            try:
                models = [item for path in self._model_paths() for item in await self._api.list(path)]
            except (ApiError, ApiUnreachableError) as error:
                log.warning("models cannot be listed: %s", explain(error))
                await asyncio.sleep(2)
                continue
            spread_s = min(self._options.resync_s / 2, len(models) * 0.02) if self._synced else 0.0
            for item in models:
                key = (item["metadata"]["namespace"], item["metadata"]["name"])
                self._queue.add(key, random.uniform(0, spread_s))
            self._synced = True
            await asyncio.sleep(self._options.resync_s * random.uniform(0.9, 1.1))

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
        return "models have not been listed yet" if acting and not self._synced else self._wrong()
