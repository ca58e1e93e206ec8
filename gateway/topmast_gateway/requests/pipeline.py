"""What lies between "this caller may use this model" and "a pod works on it": limits, the queue, the account after.

Puts together quotas, the fair queue, usage and their replication to other gateways. It knows no pods and reads no
answers.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
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
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.request import ClientDisconnected
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
        self.quota = QuotaEnforcer(self._counters, time.time)
        self.dispatcher = Dispatcher(free_places, sharing.queue_requests)
        self.replication = CounterReplication(self._counters, self.quota)
        self.caller_usage = CallerUsage(self.dispatcher.waiting)
        self._estimates = TokenEstimator()
        self._log: UsageLog | None = None
        self.caught_up = False  # with what was used before this process began

    def arriving(self, caller: Caller) -> AbstractContextManager[None]:
        """While its body is read: what is known of the caller's limits before that is looked at first."""
        return self.quota.arriving(caller)

    @asynccontextmanager
    async def admitted(
        self,
        caller: Caller,
        model: str,
        request: CompletionRequest,
        headers: Mapping[bytes, bytes],
        writer: ResponseWriter,
        usage: TokenUsage,
    ) -> AsyncIterator[tuple[CompletionRequest, Mapping[bytes, bytes]]]:
        """Reserve, wait for a slot, and account for what was used in the end; an ApiError where it ends before.

        Gives the request and the headers for the engine. `model` is its key, which the caller may call.
        """
        request = self._estimates.refined(request, model)
        priority, timeout_s = effective_priority(request, caller.priority), requested_timeout_s(request, headers)
        longest_wait_s = self._sharing.queue_s if timeout_s is None else timeout_s
        started_s, queued_s, finish, status = time.monotonic(), 0.0, "answered", None
        served_s = 0.0
        try:
            with (
                self.quota.reserved(caller, request.tokens, usage) as left,
                self.backlog.waiting(model, request, again=is_retry(headers)) as served,
            ):
                writer.extra_headers += left
                async with self.dispatcher.slot(
                    model, QueueRequest(caller, priority, request.prompt, longest_wait_s), usage
                ) as queued_s:
                    served()
                    served_at_s, gone = time.monotonic(), False
                    try:
                        yield with_priority(request, priority), with_remaining_timeout(headers, timeout_s, queued_s)
                    except (asyncio.CancelledError, ClientDisconnected):
                        gone = True
                        raise
                    finally:
                        served_s = time.monotonic() - served_at_s
                        if gone and writer.status is None:
                            self._charge_unseen(usage, request, model, writer, served_s)
                        else:
                            _fill(usage, request, writer)
        except ApiError as refusal:
            finish, status = "failed" if writer.tries else "refused", refusal.status
            raise
        except (asyncio.CancelledError, ClientDisconnected):
            finish, status = "cancelled", 499
            raise
        except BaseException:
            finish, status = "failed", 500
            raise
        finally:
            status = status or writer.status or 500
            finish = "failed" if finish == "answered" and (status >= 400 or writer.broken) else finish
            seconds = time.monotonic() - started_s
            self._estimates.learn(len(request.body), model, usage, served_s)
            self._account(
                UsageRecord(
                    time.time(), writer.request_id, caller.name, model, usage, status, finish, seconds, queued_s
                )
            )

    def open(self) -> None:
        """Begin the usage log."""
        if (where := self._sharing.usage_log) is not None:
            self._log = UsageLog(where, self._counters.replica)

    async def follow(self, client: aiohttp.ClientSession, token: SharedToken) -> None:
        """Take up what the usage log says, and keep in step with the other gateways until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._catch_up())
            group.create_task(self.replication.follow(self._sharing.peers, client, token))

    async def close(self) -> None:
        """Write the last lines of the usage log."""
        if self._log:
            await asyncio.to_thread(self._log.close)

    async def _catch_up(self) -> None:
        if (where := self._sharing.usage_log) not in (None, "-"):
            await self.replication.take_over(await asyncio.to_thread(replay, Path(where), time.time()))
        self.caught_up = True

    def _account(self, record: UsageRecord) -> None:
        self.caller_usage.count(record)
        if self._log:
            self._log.write(record)

    def _charge_unseen(
        self, usage: TokenUsage, request: CompletionRequest, model: str, writer: ResponseWriter, served_s: float
    ) -> None:
        """Charge a request whose client left before its answer came, by the time that an engine had for it.

        Of answers with a journal what was made is known. Of others nothing is until they end, and nobody may have an
        engine's work for nothing by leaving early.
        """
        if writer.tries and request.no_journal and not usage.exact:
            usage.prompt = request.prompt
            usage.output = self._estimates.made_within(request, model, served_s)


def _fill(usage: TokenUsage, request: CompletionRequest, writer: ResponseWriter) -> None:
    """What an engine that answered did not report is charged by the estimate."""
    if not usage.exact and writer.answered_at is not None and writer.status == 200:
        usage.prompt = usage.prompt or request.prompt
        usage.output = usage.output or request.tokens - request.prompt
