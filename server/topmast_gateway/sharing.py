"""The command line's flags for fair shares, budgets and usage. Light, for the sake of --help."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from topmast_gateway import flag_types


@dataclass(frozen=True, slots=True)
class Sharing:
    """The flags of this part."""

    requests_per_pod: int = 32  # what an engine runs at once: more would wait there, in its own order
    queue_s: float = 30.0
    queue_requests: int = 512
    peers: str | None = None
    usage_log: str | None = None

    @classmethod
    def of(cls, flags: argparse.Namespace) -> Sharing:
        """From the command line."""
        return cls(flags.requests_per_pod, flags.queue_s, flags.queue_requests, flags.peers, flags.usage_log)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The command line's part."""
    add = parser.add_argument
    add(
        "--requests-per-pod",
        default=32,
        type=flag_types.count,
        help="in flight before others wait here (default %(default)s)",
    )
    add("--queue-s", default=30.0, type=flag_types.positive, help="longest wait for a turn (default %(default)s)")
    add(
        "--queue-requests", default=512, type=flag_types.count, help="that may wait for one model (default %(default)s)"
    )
    add("--peers", type=_host_and_port, metavar="NAME:PORT", help="admin ports of all gateways, to add up their usage")
    add("--usage-log", metavar="WHERE", help="a JSON line for every request: a file, a directory, or - for stdout")


def _host_and_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a DNS name and a port: write NAME:8081")
    return text
