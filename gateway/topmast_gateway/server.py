"""Puts the gateway together, and takes it apart in the right order.

SIGTERM: not ready at once, and every answer says that its connection ends; still serving while routing notices; then
no new connections; open streams finish.
A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import uuid

import aiohttp

from topmast_access.signing import EngineTokens
from topmast_gateway.access import AccessControl
from topmast_gateway.activation.waker import Waker
from topmast_gateway.config import GatewayConfig
from topmast_gateway.fairness.capacity import ModelCapacity
from topmast_gateway.fairness.dispatcher import Dispatcher
from topmast_gateway.http.admin import Admin
from topmast_gateway.http.app import App
from topmast_gateway.http.cors import Cors
from topmast_gateway.http.listener import Server
from topmast_gateway.identity.shared_token import SharedToken
from topmast_gateway.kubernetes.client import connect_to_cluster
from topmast_gateway.kubernetes.cluster_state import ClusterState
from topmast_gateway.kubernetes.snapshot import Snapshot
from topmast_gateway.limits.overload import OverloadGuard
from topmast_gateway.observability.access_log import AccessLog
from topmast_gateway.observability.backlog import Backlog
from topmast_gateway.observability.live_gauges import LiveGauges
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.observability.tracing import Tracing
from topmast_gateway.requests.accounting import Accounting
from topmast_gateway.requests.pipeline import Pipeline
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.endpoint_picker import EndpointPicker
from topmast_gateway.routing.load_scraper import LoadScraper
from topmast_gateway.upstream.connection_pool import ConnectionPool
from topmast_gateway.upstream.proxy import Proxy

log = logging.getLogger(__name__)

_ADMIN_LAST_S = 1.0
_IDLE_S = 30.0


async def serve(
    public: socket.socket,
    admin: socket.socket,
    config: GatewayConfig,
    access: AccessControl,
    token: SharedToken,
    engine_tokens: EngineTokens,
    access_log: AccessLog | None = None,
    tracing: Tracing | None = None,
) -> None:
    """Run until a signal, then drain. Raises NoCluster when there is nothing to watch."""
    watch, leave, signals = config.watch, config.leave, _Signals()
    loads = EndpointLoads()
    picker = EndpointPicker(loads)
    snapshot = Snapshot(watch.snapshot) if watch.snapshot else None
    cluster = ClusterState(watch.namespaces, watch.keys_namespace, watch.keys_secret, loads, picker, snapshot)
    metrics, overload = Metrics(), OverloadGuard(config.max_streams)
    metrics.registry.register(LiveGauges(metrics, cluster, loads, overload))
    sharing, replica = config.sharing, uuid.uuid4().hex[:16]
    capacity = ModelCapacity(cluster, loads, sharing.requests_per_pod)
    dispatcher, backlog = Dispatcher(capacity.free_places, sharing.queue_requests), Backlog(replica)
    accounting = Accounting(sharing, replica, dispatcher.waiting)
    loads.gateways = accounting.replication.gateways

    def why_not_ready() -> str:
        if signals.leave.is_set():
            return "leaving: open streams finish, new requests belong elsewhere"
        waiting = [informer.name for informer in cluster.informers if not informer.synced]
        if waiting:
            return f"starting: no list yet of {', '.join(waiting)}"
        if not cluster.synced:
            return "starting: the lists are being read"
        return "" if accounting.caught_up else "starting: the usage log is being read"

    def queue() -> bytes:
        return backlog.answer({route.model.key for route in cluster.routes})

    kube = await connect_to_cluster()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(kube.close)
        client = await stack.enter_async_context(_aside())
        stack.callback((pool := ConnectionPool(engine_tokens)).close)
        accounting.open()
        stack.push_async_callback(accounting.close)
        waker = Waker(client, metrics, token, config.wake.operator_url)
        proxy = Proxy(pool, cluster, picker, loads, metrics, config.timeouts, backlog, waker)
        pipeline = Pipeline(
            cluster,
            overload,
            accounting,
            dispatcher,
            backlog,
            proxy,
            metrics,
            isolates_caches=sharing.isolates_caches,
        )
        cluster.keys_changed = pipeline.open_requests.end_revoked
        for log_or_trace in (access_log, tracing):
            if log_or_trace is not None:
                stack.push_async_callback(asyncio.to_thread, log_or_trace.close)
        app = App(cluster, access.identity(cluster, metrics), pipeline, metrics, access_log, tracing)
        public_server = Server(Cors(app, access.cors_origins), access.tls)
        admin_server = Server(
            Admin(metrics, accounting.caller_usage, why_not_ready, accounting.replication, queue, token)
        )
        watching = asyncio.create_task(cluster.follow(kube))
        renewing = asyncio.create_task(access.follow())
        counting = asyncio.create_task(accounting.follow(client, token))
        scraping = asyncio.create_task(LoadScraper(client, cluster.pods, loads, engine_tokens).follow())
        await public_server.listen(public)
        await admin_server.listen(admin)
        log.info("listening on %s, admin on %s", _address(public), _address(admin))
        leaving = asyncio.create_task(signals.leave.wait())
        # None of them ends by itself; if one does, its exception ends the process.
        tasks = {leaving, watching, renewing, counting, scraping}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        log.info("leaving: %d requests are open", overload.streams)
        if leaving.done():
            public_server.leave()
            await signals.hurry_or(leave.notice)
        await signals.hurry_or(None, asyncio.create_task(public_server.close(leave.drain)))
        await public_server.close(0)
        await admin_server.close(_ADMIN_LAST_S)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end


class _Signals:
    """The first SIGTERM or SIGINT asks to leave, the second to hurry."""

    def __init__(self) -> None:
        self.leave = asyncio.Event()
        self._hurry = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        (self._hurry if self.leave.is_set() else self.leave).set()

    async def hurry_or(self, seconds: float | None, task: asyncio.Task[None] | None = None) -> None:
        """Return after `seconds`, at the end of the task, or when asked to hurry; the latter cancels the task."""
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({hurry, task} if task else {hurry}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task and hurry.done():
            task.cancel()
        hurry.cancel()


def _aside() -> aiohttp.ClientSession:
    """The client for everything but requests: scrapes, calls at the operator, other gateways."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S, use_dns_cache=False)
    skip = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
    cookies = aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(connector=connector, cookie_jar=cookies, auto_decompress=False, skip_auto_headers=skip)


def _address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
