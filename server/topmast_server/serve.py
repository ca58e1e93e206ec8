"""The running server: two HTTP servers and the supervisor in one event loop, until a signal or a failure ends it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import signal
import socket
import threading
from collections.abc import Callable
from typing import Final, TypeVar

import uvloop

from topmast_server.api.admin import admin_app
from topmast_server.api.app import public_app
from topmast_server.api.errors import ApiError
from topmast_server.api.guard import Guard
from topmast_server.api.service import Service, TextSide
from topmast_server.console import Console, url
from topmast_server.engine.launch import Launched
from topmast_server.http import HttpServer
from topmast_server.options import Options, termination_log
from topmast_server.source import Source
from topmast_server.supervisor.drain import Drain
from topmast_server.supervisor.outcome import DRAINED, Failure, write_termination_log
from topmast_server.supervisor.supervisor import Supervisor
from topmast_server.weights.errors import ModelError

Result = TypeVar("Result")

_LAST_ANSWERS_S: Final = 2.0  # for error events to reach clients that read slowly


def run(
    options: Options,
    source: Source,
    launched: Launched,
    listeners: tuple[socket.socket, socket.socket],
    console: Console,
    started_s: float,
) -> int:
    """Serve until the end; returns the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        program = _Program(options, source, listeners, console)
        return runner.run(program.run(launched, started_s))


class _Program:
    def __init__(
        self, options: Options, source: Source, listeners: tuple[socket.socket, socket.socket], console: Console
    ) -> None:
        self._options = options
        self._source = source
        self._listeners = listeners
        self._console = console
        self._drain = Drain(options.drain_notice_s)
        self._signals = 0
        self._announced = False

    async def run(self, launched: Launched, started_s: float) -> int:
        options = self._options
        self._supervisor = Supervisor(launched, options.hang_timeout_s, options.load_timeout_s, self._on_change)
        self._service = Service(
            options.served_model_name or [self._source.name],
            self._supervisor,
            self._drain,
            max_waiting_requests=options.max_waiting_requests,
            max_waiting_tokens=options.max_waiting_tokens,
            ttft_target_s=options.ttft_target_s,
            started_s=started_s,
        )
        self._left = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        as_json, guard = options.log_format == "json", self._guard()
        apps = (
            public_app(self._service, self._console.line, log_json=as_json, guard=guard),
            admin_app(self._service, self._console.line, log_json=as_json, guard=guard),
        )
        servers = [HttpServer(app, _LAST_ANSWERS_S) for app in apps]
        serving = [
            loop.create_task(server.serve(sockets=[listener]))
            for server, listener in zip(servers, self._listeners, strict=True)
        ]
        text = loop.create_task(self._load_text())
        try:
            await self._until_the_end()
        finally:
            text.cancel()
            for server in servers:
                server.should_exit = True
            await asyncio.wait(serving, timeout=_LAST_ANSWERS_S)
            await self._supervisor.stop()
        return self._exit_code()

    def _guard(self) -> Guard | None:
        options = self._options
        if options.access_file is None or options.access_audience is None:
            return None
        count = self._service.metrics.refused_token
        return Guard(options.access_file, options.access_audience, count, self._console.error)

    async def _load_text(self) -> None:
        try:
            self._service.set_text(await _aside(lambda: TextSide(self._source.path)))
        except ModelError as error:
            self._supervisor.fail(Failure(error.code, error.message))
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            self._supervisor.fail(Failure("Internal", f"the tokenizer could not be loaded: {what}; report this"))
            raise
        self._on_change()

    def _on_change(self) -> None:
        service, load = self._service, self._supervisor.load
        if self._supervisor.phase in ("loading", "warming"):
            self._console.loading(self._supervisor.phase, load.bytes_done, load.bytes_total, load.eta_s)
        service.open_if_complete()
        if service.ready_after_s is not None and not self._announced:
            self._announced = True
            # What exists now lives as long as the server: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            notes = self._supervisor.info.get("notes", [])
            self._console.ready(url(self._listeners[0]), service.names[0], notes, service.ready_after_s)

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        # Nobody routes to a server in a terminal, and nobody waits for one that was never ready.
        nobody_waits = number == signal.SIGINT or self._service.ready_after_s is None
        self._drain.start(notice=not nobody_waits)
        if self._signals > 1:
            self._left.set()
        else:
            self._leaving = asyncio.get_running_loop().create_task(self._leave())

    async def _leave(self) -> None:
        running = self._service.in_flight.count
        self._console.line(f"draining: {running} requests are running; a second signal ends at once")
        await asyncio.sleep(self._drain.notice_left_s)
        await self._service.in_flight.wait_for_none(self._options.drain_timeout_s)
        self._left.set()

    async def _until_the_end(self) -> None:
        loop = asyncio.get_running_loop()
        ends = [loop.create_task(event.wait()) for event in (self._left, self._supervisor.ended)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if self._supervisor.failure is None:
            message = "the server shut down before this answer was finished; ask again elsewhere"
            self._supervisor.give_up(ApiError(503, message, code="draining", retry_after_s=1, close=True))
        await self._service.in_flight.wait_for_none(_LAST_ANSWERS_S)

    def _exit_code(self) -> int:
        failure = self._supervisor.failure
        if failure is None:
            self._console.line("drained")
            return DRAINED
        self._console.error(f"{failure.code}: {failure.message}")
        write_termination_log(termination_log(self._options), failure)
        return failure.exit_code


async def _aside(call: Callable[[], Result]) -> Result:
    """What the call gives, in a thread that the process does not wait for at its end: it may read from a volume that
    never answers.
    """
    done: concurrent.futures.Future[Result] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="load-text", daemon=True).start()
    return await asyncio.wrap_future(done)
