"""What the command line asks of a gateway, as plain values. Each part is given its own, and none of them all."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from topmast_gateway.routing.model_table import Model


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds. Every limit is about progress; none is about the total time of an answer.

    A model may have some of its own (`spec.access.timeouts`).
    """

    queue_s: float = 30.0  # for a place at a pod, while all are taken
    hold_s: float = 60.0  # for a pod, when there is none
    resume_hold_s: float = 300.0  # the same for an answer that was started: giving up would lose it
    silence_s: float = 5.0  # of an engine that keeps a journal, which shows every second that it lives
    progress_s: float = 120.0  # for the first byte of any other stream, and between two; and for a client to read
    answer_s: float = 1200.0  # for any other answer that is not streamed: it shows nothing before it is whole

    def of(self, model: Model) -> Timeouts:
        """These, with what the model says itself."""
        return dataclasses.replace(self, **dict(model.timeouts)) if model.timeouts else self


@dataclass(frozen=True, slots=True)
class SharingConfig:
    """Fair shares between callers, and what they have used."""

    requests_per_pod: int = 32  # what an engine runs at once: more would wait there, in its own order
    queue_requests: int = 512  # that may wait for one model
    peers: str | None = None
    usage_log: str | None = None
    isolates_caches: bool = True  # no caller's requests are served from what another one's have left in a cache


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """What to watch: no namespaces means all of them."""

    namespaces: Sequence[str]
    keys_namespace: str
    keys_secret: str
    snapshot: Path | None = None  # of all that, for a start while the API server is away


@dataclass(frozen=True, slots=True)
class DrainConfig:
    """How to go, in seconds: the notice to routing, then the longest wait for open streams."""

    notice: float = 3.0
    drain: float = 60.0


@dataclass(frozen=True, slots=True)
class WakeConfig:
    """How to have models woken: no URL is nobody to call."""

    operator_url: str = ""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """All of it. `max_streams` requests are open at once."""

    watch: WatchConfig
    timeouts: Timeouts = field(default_factory=Timeouts)
    sharing: SharingConfig = field(default_factory=SharingConfig)
    leave: DrainConfig = field(default_factory=DrainConfig)
    wake: WakeConfig = field(default_factory=WakeConfig)
    max_streams: int = 2000


def read_config(flags: argparse.Namespace, keys_namespace: str) -> GatewayConfig:
    """From the command line."""
    return GatewayConfig(
        WatchConfig(tuple(dict.fromkeys(flags.namespace)), keys_namespace, flags.keys_secret, flags.snapshot),
        Timeouts(
            flags.queue_s,
            flags.hold_s,
            flags.resume_hold_s,
            flags.silence_s,
            flags.progress_timeout_s,
            flags.answer_timeout_s,
        ),
        SharingConfig(
            flags.requests_per_pod,
            flags.queue_requests,
            flags.peers,
            flags.usage_log,
            flags.cache_isolation == "caller",
        ),
        DrainConfig(flags.drain_notice_s, flags.drain_timeout_s),
        WakeConfig(flags.operator_url),
        flags.max_streams,
    )
