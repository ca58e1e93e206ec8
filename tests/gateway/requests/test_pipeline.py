"""What a request is charged in the end: also one that its client left, of which no engine says anything."""

from __future__ import annotations

import asyncio

import pytest

from gateway.lab.exchanges import RecordingClient
from gateway.lab.pipelines import way
from topmast_gateway.config import SharingConfig
from topmast_gateway.continuation.answer_state import AnswerState
from topmast_gateway.identity.caller import Caller, Limits
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.request import ClientDisconnected
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.requests.accounting import Accounting
from topmast_gateway.routing.model_table import Model

ALICE = Caller("alice", limits=Limits(budget_tokens=100_000, budget_period="total"))
BODY = b'{"model":"m","max_tokens":2000,"n":2,"prompt":"%b"}' % (b"x" * 400)
WITH_JOURNAL = BODY.replace(b'"n":2,', b"")


async def charged(
    error: type[BaseException], *, tries: int = 1, journal: bool = False, learnt: TokenUsage | None = None
) -> int:
    """Tokens of a request that ends so after a tenth of a second at an engine."""

    async def answer(state: AnswerState, _: Model) -> None:
        state.writer.tries = tries
        await asyncio.sleep(0.1)
        if error is ClientDisconnected:
            client.leave()
            await asyncio.sleep(1)
        raise ApiError(502, "x", "x")

    there, client = way(answer), RecordingClient(WITH_JOURNAL if journal else BODY)
    if learnt is not None:
        there.accounting.estimates.learn(400, "ns/m", learnt, served_s=2.0)
    with pytest.raises(error):
        await there.ask(ALICE, b"", client=client)
    return there.accounting.quota.used(ALICE.accounts[0])


async def test_who_leaves_before_an_answer_without_a_journal_pays_for_what_may_have_been_made() -> None:
    """Five times two thousand tokens were asked for and left after a second, and none of them was charged."""
    assert await charged(ClientDisconnected) == len(BODY) // 4 + 4000  # nobody knows better yet
    paid = await charged(ClientDisconnected, learnt=TokenUsage(prompt=100, output=200, exact=True))
    assert 100 + 2 * 10 <= paid <= 100 + 2 * 1000, (
        "a hundred tokens a second for each of two answers, for 0.1 s or more"
    )


async def test_what_no_engine_worked_on_and_what_failed_is_free() -> None:
    assert await charged(ClientDisconnected, tries=0) == 0
    assert await charged(ApiError) == 0
    assert await charged(ClientDisconnected, journal=True) == 0, "its journal said that nothing was generated"


async def test_a_callers_bodies_that_are_being_read_count_against_its_limits() -> None:
    accounting = Accounting(SharingConfig(), "one", dict)
    for limits, code in (
        (Limits(max_streams=2), "rate_limit_exceeded"),
        (Limits(requests_per_minute=2), "rate_limit_exceeded"),
    ):
        caller = Caller("bob", limits=limits)
        with accounting.quota.arriving(caller), accounting.quota.arriving(caller):
            with pytest.raises(ApiError) as refused, accounting.quota.arriving(caller):
                pass
            assert (refused.value.status, refused.value.code) == (429, code)
        with accounting.quota.arriving(caller):
            pass
    spent = Caller("carol", limits=Limits(budget_tokens=10, budget_period="total"))
    accounting._counters.add("carol", "total", charged=10)
    with pytest.raises(ApiError) as refused, accounting.quota.arriving(spent):
        pass
    assert refused.value.code == "insufficient_quota"
    assert accounting.quota._arriving == {}
