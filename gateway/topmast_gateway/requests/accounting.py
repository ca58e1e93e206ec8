"""What requests are charged: reserved before they run, settled by what they used, written down, and reported to others.

Puts together quotas, their replication to other gateways, estimates, the usage log and the counts for metrics.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from topmast_gateway.config import SharingConfig
from topmast_gateway.identity.caller import Caller
from topmast_gateway.identity.shared_token import SharedToken
from topmast_gateway.limits.counters import Counters
from topmast_gateway.limits.quota import QuotaEnforcer, Reservation
from topmast_gateway.limits.replication import CounterReplication
from topmast_gateway.limits.token_estimate import TokenEstimator
from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.request import ClientDisconnected
from topmast_gateway.messages.response import ResponseWriter
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.observability.access_log import RequestRecord
from topmast_gateway.observability.caller_usage import CallerUsage, UsageRecord
from topmast_gateway.observability.usage_log import UsageLog, replay

_CHARGE_EVERY_S = 0.5
_AT_ONCE = 200  # open requests are charged; then others have the loop


@dataclass(slots=True)
class Service:
    """What a request got so far: when it last got a slot (monotonic), and how long it waited for it."""

    began_at: float | None = None
    queued_s: float = 0.0
    charged: int = 0  # while it was open

    def seconds(self) -> float:
        """Since it got a slot."""
        return 0.0 if self.began_at is None else time.monotonic() - self.began_at


class Accounting:
    """`replica` names this process; `waiting` gives the lengths of the queues, by model."""

    def __init__(self, sharing: SharingConfig, replica: str, waiting: Callable[[], Mapping[str, int]]) -> None:
        self._sharing = sharing
        self._counters = Counters(replica)
        self.quota = QuotaEnforcer(self._counters, time.time)
        self.replication = CounterReplication(self._counters, self.quota)
        self.caller_usage = CallerUsage(waiting)
        self.estimates = TokenEstimator()
        self._log: UsageLog | None = None
        self._open: dict[Reservation, tuple[Caller, RequestRecord]] = {}
        self.caught_up = False  # with what was used before this process began

    @contextmanager
    def charged(
        self, caller: Caller, request: CompletionRequest, writer: ResponseWriter, record: RequestRecord
    ) -> Iterator[Service]:
        """Reserve what the request may need, and charge what `record.usage` says when the block ends, however it does.

        An ApiError where a limit would be crossed.
        """
        usage, service = record.usage, Service()
        finish, status = "answered", None
        try:
            with self.quota.reserved(caller, request.tokens, usage) as reservation:
                writer.extra_headers += reservation.headers
                self._open[reservation] = caller, record
                gone = False
                try:
                    yield service
                except (asyncio.CancelledError, ClientDisconnected):
                    gone = True
                    raise
                finally:
                    del self._open[reservation]
                    service.charged = reservation.charged
                    if gone and writer.status is None:
                        self._charge_unseen(request, writer, record, service)
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
            self.estimates.learn(len(request.body), record.model, usage, service.seconds())
            self._write_down(caller, writer, record, status, finish, service)

    def open(self) -> None:
        """Begin the usage log."""
        if (where := self._sharing.usage_log) is not None:
            self._log = UsageLog(where, self._counters.replica)

    async def follow(self, client: aiohttp.ClientSession, token: SharedToken) -> None:
        """Take up what the usage log says, and keep in step with the other gateways until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._catch_up())
            group.create_task(self.replication.follow(self._sharing.peers, client, token))
            group.create_task(self._charge_open())

    async def close(self) -> None:
        """Write the last lines of the usage log."""
        if self._log:
            await asyncio.to_thread(self._log.close)

    async def _catch_up(self) -> None:
        if (where := self._sharing.usage_log) not in (None, "-"):
            await self.replication.take_over(await asyncio.to_thread(replay, Path(where), time.time()))
        self.caught_up = True

    async def _charge_open(self) -> None:
        """Again and again, so that a gateway that is killed takes less than a second of what is open with it."""
        while True:
            await asyncio.sleep(_CHARGE_EVERY_S)
            more: Counter[tuple[str, str, str]] = Counter()
            for number, reservation in enumerate(list(self._open)):
                if number % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)
                if (found := self._open.get(reservation)) is not None:
                    caller, record = found
                    more[caller.name, caller.team_name, record.model] += self.quota.charge_open(reservation)
            if self._log:
                for (name, team, model), tokens in more.items():
                    self._log.write_open(time.time(), name, team, model, tokens)

    def _write_down(
        self,
        caller: Caller,
        writer: ResponseWriter,
        record: RequestRecord,
        status: int,
        finish: str,
        service: Service,
    ) -> None:
        entry = UsageRecord(
            at=time.time(),
            request_id=writer.request_id,
            caller=caller.name,
            team=caller.team_name,
            model=record.model,
            usage=record.usage,
            status=status,
            finish=finish,
            seconds=time.monotonic() - record.arrived_at,
            queued_s=service.queued_s,
            charged_before=service.charged,
        )
        self.caller_usage.count(entry)
        if self._log:
            self._log.write(entry)

    def _charge_unseen(
        self, request: CompletionRequest, writer: ResponseWriter, record: RequestRecord, service: Service
    ) -> None:
        """Charge a request whose client left before its answer came, by the time that an engine had for it.

        Of answers with a journal the generated tokens are known. Of others nothing is until they end, and nobody may
        have an engine's work for nothing by leaving early.
        """
        usage = record.usage
        if writer.tries and request.no_journal and not usage.exact:
            usage.prompt = request.prompt
            usage.output = self.estimates.made_within(request, record.model, service.seconds())


def _fill(usage: TokenUsage, request: CompletionRequest, writer: ResponseWriter) -> None:
    """What an engine that answered did not report is charged by the estimate."""
    if not usage.exact and writer.answered_at is not None and writer.status == 200:
        usage.prompt = usage.prompt or request.prompt
        usage.output = usage.output or request.tokens - request.prompt
