"""What lies between "this caller may use this model" and "a pod works on it": limits, the queue, the account after.

Puts together ledger, turnstile, usage and their exchange with other gateways. It knows no pods and reads no answers.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from topmast_gateway.config import SharingConfig
from topmast_gateway.fairness.capacity import FreePlaces
from topmast_gateway.fairness.dispatcher import Dispatcher, QueueRequest
from topmast_gateway.identity.caller import Caller
from topmast_gateway.identity.shared_token import SharedToken
from topmast_gateway.limits.counters import Counters
from topmast_gateway.limits.quota import QuotaEnforcer
from topmast_gateway.limits.replication import CounterReplication
from topmast_gateway.limits.token_estimate import TokenEstimator
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.messages.disconnect import ClientDisconnected
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.observability.backlog import Backlog
from topmast_gateway.observability.caller_usage import CallerUsage, UsageRecord
from topmast_gateway.observability.usage_log import UsageLog, replay
from topmast_gateway.requests.deadline_priority import (
    effective_priority,
    is_retry,
    requested_timeout_s,
    with_priority,
    with_remaining_timeout,
)


class Pipeline:
    """`free_places` says how many more requests a model's pods can take."""

    def __init__(self, sharing: SharingConfig, free_places: FreePlaces) -> None:
        self._sharing = sharing
        replica = uuid.uuid4().hex[:16]
        self._counters = Counters(replica)
        self.backlog = Backlog(replica)
        self.ledger = QuotaEnforcer(self._counters, time.time)
        self.turns = Dispatcher(free_places, sharing.queue_requests)
        self.exchange = CounterReplication(self._counters, self.ledger)
        self.usage = CallerUsage(self.turns.waiting)
        self._estimates = TokenEstimator()
        self._log: UsageLog | None = None
        self.caught_up = False  # with what was used before this process began

    @asynccontextmanager
    async def turn(
        self,
        caller: Caller,
        model: str,
        ask: CompletionRequest,
        headers: Mapping[bytes, bytes],
        reply: ResponseWriter,
        tally: TokenUsage,
    ) -> AsyncIterator[tuple[CompletionRequest, Mapping[bytes, bytes]]]:
        """Reserve, wait for a turn, and account for what the tally says in the end; an ApiError where it ends before.

        Gives the request and the headers for the engine. `model` is its key, which the caller may call.
        """
        ask = self._estimates.better(ask, model)
        band, timeout_s = effective_priority(ask, caller.band), requested_timeout_s(ask, headers)
        patience_s = self._sharing.queue_s if timeout_s is None else timeout_s
        begun_s, queued_s, finish, status = time.monotonic(), 0.0, "answered", None
        try:
            with (
                self.ledger.reserved(caller, ask.tokens, tally) as left,
                self.backlog.waiting(model, ask, again=is_retry(headers)) as served,
            ):
                reply.stamps = left
                async with self.turns.turn(
                    model, QueueRequest(caller, band, ask.prompt, patience_s), tally
                ) as queued_s:
                    served()
                    try:
                        yield with_priority(ask, band), with_remaining_timeout(headers, timeout_s, queued_s)
                    finally:
                        _fill(tally, ask, reply)
        except ApiError as refusal:
            finish, status = "failed" if reply.tries else "refused", refusal.status
            raise
        except (asyncio.CancelledError, ClientDisconnected):
            finish, status = "cancelled", 499
            raise
        except BaseException:
            finish, status = "failed", 500
            raise
        finally:
            status = status or reply.status or 500
            finish = "failed" if finish == "answered" and (status >= 400 or reply.broken) else finish
            seconds = time.monotonic() - begun_s
            self._estimates.learn(len(ask.body), model, tally)
            self._account(
                UsageRecord(time.time(), reply.request_id, caller.name, model, tally, status, finish, seconds, queued_s)
            )

    def open(self) -> None:
        """Begin the usage log."""
        if (where := self._sharing.usage_log) is not None:
            self._log = UsageLog(where, self._counters.replica)

    async def follow(self, client: aiohttp.ClientSession, token: SharedToken) -> None:
        """Take up what the usage log says, and keep in step with the other gateways until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._catch_up())
            group.create_task(self.exchange.follow(self._sharing.peers, client, token))

    async def close(self) -> None:
        """Write the last lines of the usage log."""
        if self._log:
            await asyncio.to_thread(self._log.close)

    async def _catch_up(self) -> None:
        if (where := self._sharing.usage_log) not in (None, "-"):
            now = time.time()
            self._counters.merge(await asyncio.to_thread(replay, Path(where), now), now)
        self.caught_up = True

    def _account(self, use: UsageRecord) -> None:
        self.usage.count(use)
        if self._log:
            self._log.write(use)


def _fill(tally: TokenUsage, ask: CompletionRequest, reply: ResponseWriter) -> None:
    """What an engine that answered has not told is charged by the estimate."""
    if not tally.exact and reply.answered_at is not None and reply.status == 200:
        tally.prompt = tally.prompt or ask.prompt
        tally.output = tally.output or ask.tokens - ask.prompt
