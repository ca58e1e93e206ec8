"""`topmast serve`: flags, ports, the engine process, and then the server (serve.py).

The order is the point: the ports answer probes and the engine loads while the HTTP libraries are still being
imported.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from types import FrameType

from topmast_server.console import Console, url
from topmast_server.engine.config import EngineConfig
from topmast_server.engine.launch import launch
from topmast_server.options import Options, parse, termination_log
from topmast_server.source import locate
from topmast_server.supervisor.outcome import BAD_USAGE, Failure, write_termination_log
from topmast_server.weights.errors import ModelError


def main() -> int:
    """Run `topmast serve` to its end; the exit code is a contract (docs/contracts.md)."""
    started_s = time.monotonic()
    options = parse()
    # Before the server's own handlers are there nobody is served, so there is nothing to drain. Without this a
    # first process of a container would ignore the signal.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_at_once)
    console = Console(started_s)
    try:
        public = listen(options.host, options.port, "--port")
        admin = listen(options.admin_host, options.admin_port, "--admin-port")
    except OSError as error:
        console.error(str(error))
        return BAD_USAGE
    try:
        source = locate(options.model)
    except ModelError as error:
        failure = Failure(error.code, error.message)
        console.error(failure.message)
        write_termination_log(termination_log(options), failure)
        return failure.exit_code
    launched = launch(engine_config(options, str(source.path)))
    try:
        console.listening(url(public), url(admin), str(source.path))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from topmast_server.serve import run  # the HTTP libraries, while the engine loads

        return run(options, source, launched, (public, admin), console, started_s)
    finally:
        if launched.process.poll() is None:
            launched.process.kill()
        launched.process.wait()


def engine_config(options: Options, path: str) -> EngineConfig:
    """What the engine process is told of the flags."""
    return EngineConfig(
        model=path,
        dtype=options.dtype,
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        kv_cache_bytes=options.kv_cache_bytes,
        itl_goal_s=options.itl_goal_s,
        prefix_cache=options.prefix_cache,
        batch_invariant=options.batch_invariant,
    )


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A bound and listening socket; connections wait in it until the server takes them.

    `::` is every address, of IPv4 and IPv6; where the kernel has no IPv6 it is every address of IPv4.
    """
    dual = host == "::" and socket.has_dualstack_ipv6()
    try:
        where = "0.0.0.0" if host == "::" and not dual else host
        family, kind, proto, _, address = socket.getaddrinfo(where, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if dual:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot listen on {host} port {port}: {reason}; choose another address or {flag}") from error
    return listener


def _leave_at_once(number: int, _: FrameType | None) -> None:
    sys.exit(0)
