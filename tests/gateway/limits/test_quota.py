"""Rates and budgets: never crossed by what was reserved, exact by what was used, and nothing stays reserved."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topmast_gateway.identity.caller import Caller, Limits, Team
from topmast_gateway.limits import periods
from topmast_gateway.limits.counters import Counters
from topmast_gateway.limits.quota import HeldByRequests, QuotaEnforcer
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.token_usage import TokenUsage
from topmast_gateway.requests.usage_report import usage_report

NOON = 1_800_014_400.0  # the start of a minute


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def a_ledger(name: str = "one") -> tuple[QuotaEnforcer, Counters, Clock]:
    clock, counters = Clock(), Counters(name)
    return QuotaEnforcer(counters, clock), counters, clock


def a_caller(**limits: int | str) -> Caller:
    return Caller("alice", limits=Limits(**limits))  # type: ignore[arg-type]


def refusal(quota: QuotaEnforcer, caller: Caller, tokens: int = 1) -> ApiError:
    with pytest.raises(ApiError) as refused, quota.reserved(caller, tokens, TokenUsage()):
        pass
    assert refused.value.status == 429
    return refused.value


def use(quota: QuotaEnforcer, caller: Caller, reserve: int, prompt: int, output: int) -> None:
    with quota.reserved(caller, reserve, TokenUsage(prompt=prompt, output=output, exact=True)):
        pass


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(1, 400), st.integers(0, 500)),
        st.tuples(st.just("end"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("fail"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 100), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_the_order_used_is_what_the_tallies_say_and_nothing_stays_reserved(
    steps: list[tuple[str, int, int]],
) -> None:
    quota, counters, clock = a_ledger()
    caller = a_caller(budget_tokens=2000, budget_period="total", tokens_per_minute=1500, max_streams=5)
    running: list[tuple[contextlib.ExitStack, int, int]] = []
    used = 0
    for what, number, tokens in steps:
        if what == "wait":
            clock.now += number
        elif what == "begin":
            stack, usage = contextlib.ExitStack(), TokenUsage()
            held = sum(reserved for _, reserved, _ in running)
            fits = used + held + number <= 2000 and len(running) < 5
            try:
                stack.enter_context(quota.reserved(caller, number, usage))
            except ApiError as refused:
                assert not fits or refused.kind == "tokens"
                continue
            assert fits
            usage.output = tokens
            running.append((stack, number, tokens))
        elif running:
            stack, _, tokens = running.pop(number % len(running))
            if what == "fail":
                with pytest.raises(RuntimeError), stack:
                    raise RuntimeError
            stack.close()
            used += tokens
        assert quota.used(caller.accounts[0]) == used
        assert quota.held("alice").tokens == sum(reserved for _, reserved, _ in running)
    for stack, _, tokens in running:
        stack.close()
        used += tokens
    assert quota.used(caller.accounts[0]) == used and quota.open == {}
    minute, before = periods.name("minute", clock.now), periods.minute_before(clock.now)
    assert counters.tokens("alice", minute) >= 0 and counters.tokens("alice", before) >= 0


async def test_budgets_are_exact_to_the_token_over_1000_mixed_requests_with_cancels() -> None:
    quota, _, _ = a_ledger()
    rng = random.Random(7)
    callers = [
        Caller(name, limits=Limits(budget_tokens=10**9, tokens_per_minute=10**9, requests_per_minute=10**6))
        for name in ("alice", "bob", "carol")
    ]
    usages: dict[str, list[TokenUsage]] = {caller.name: [] for caller in callers}

    async def request(caller: Caller, prompt: int, output: int, fails: bool) -> None:
        usage = TokenUsage(exact=True)
        usages[caller.name].append(usage)
        with quota.reserved(caller, prompt // 2 + 256, usage):
            await asyncio.sleep(0)
            usage.prompt = prompt
            for _ in range(output):
                await asyncio.sleep(0)
                usage.output += 1
            if fails:
                raise RuntimeError

    tasks = []
    for number in range(1000):
        asking = request(callers[number % 3], rng.randint(0, 900), rng.randint(0, 60), rng.random() < 0.2)
        tasks.append(asyncio.create_task(asking))
        if rng.random() < 0.3:
            await asyncio.sleep(0)
            rng.choice(tasks).cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {type(None), RuntimeError, asyncio.CancelledError}
    for caller in callers:
        assert quota.used(caller.accounts[0]) == sum(usage.prompt + usage.output for usage in usages[caller.name])
    assert quota.open == {}


def test_a_reservation_that_would_cross_the_budget_is_refused_until_it_is_renewed() -> None:
    quota, _, clock = a_ledger()
    caller = a_caller(budget_tokens=1000, budget_period="day")
    use(quota, caller, 500, prompt=300, output=100)
    with quota.reserved(caller, 500, TokenUsage()):
        refused = refusal(quota, caller, 101)
    assert refused.code == "insufficient_quota" and "1000 tokens a day, of which 100 are left" in str(refused)
    headers = dict(refused.headers)
    left_s = periods.seconds_left("day", clock.now)
    assert left_s is not None and int(headers[b"retry-after"]) == left_s and headers[b"x-should-retry"] == b"false"
    assert headers[b"x-ratelimit-remaining-budget"] == b"100"
    use(quota, caller, 101, prompt=1, output=0)
    clock.now += left_s
    assert quota.used(caller.accounts[0]) == 0
    use(quota, caller, 1000, prompt=1, output=0)


def test_requests_per_minute_slide_and_the_headers_say_where_they_stand() -> None:
    quota, _, clock = a_ledger()
    caller = a_caller(requests_per_minute=10)
    clock.now += 30
    for left in range(9, -1, -1):
        with quota.reserved(caller, 1, TokenUsage()) as reservation:
            reported = dict(reservation.headers)
            assert reported[b"x-ratelimit-limit-requests"] == b"10"
            assert reported[b"x-ratelimit-remaining-requests"] == b"%d" % left
            assert reported[b"x-ratelimit-reset-requests"] == b"1m30s"
    refused = refusal(quota, caller)
    assert refused.code == "rate_limit_exceeded"
    wait_s = int(dict(refused.headers)[b"retry-after"])
    assert wait_s == 36  # to the next minute, and then a tenth of one
    clock.now += wait_s - 1
    refusal(quota, caller)
    clock.now += 1
    use(quota, caller, 1, prompt=1, output=1)


def test_tokens_reserved_too_much_are_given_back_to_the_minute() -> None:
    quota, _, _ = a_ledger()
    caller = a_caller(tokens_per_minute=1000)
    use(quota, caller, 900, prompt=50, output=50)
    use(quota, caller, 900, prompt=50, output=1150)  # more than was reserved
    assert refusal(quota, caller, 1).code == "rate_limit_exceeded"


def test_a_request_above_the_whole_limit_learns_that_waiting_does_not_help() -> None:
    quota, _, _ = a_ledger()
    headers = dict(refusal(quota, a_caller(tokens_per_minute=1000), 1001).headers)
    assert headers[b"x-should-retry"] == b"false" and b"retry-after" not in headers


@given(st.integers(1, 500), st.integers(0, 500), st.integers(0, 119), st.integers(1, 500))
def test_after_the_announced_wait_a_request_fits(limit: int, first: int, gap_s: int, wanted: int) -> None:
    quota, _, clock = a_ledger()
    caller, wanted = a_caller(tokens_per_minute=limit), min(wanted, limit)
    for tokens in (min(first, limit), limit // 2):
        with contextlib.suppress(ApiError):
            use(quota, caller, max(1, tokens), prompt=tokens, output=0)
        clock.now += gap_s
    try:
        use(quota, caller, wanted, prompt=wanted, output=0)
    except ApiError as refused:
        clock.now += int(dict(refused.headers)[b"retry-after"])
        use(quota, caller, wanted, prompt=wanted, output=0)


def test_places_at_once_count_at_all_gateways_together() -> None:
    quota, _, _ = a_ledger()
    caller = a_caller(max_streams=3)
    quota.peers["two"] = {"alice": HeldByRequests(streams=2, tokens=10)}
    with quota.reserved(caller, 1, TokenUsage()):
        assert "3 requests open at once" in str(refusal(quota, caller))
    quota.peers.clear()
    with quota.reserved(caller, 1, TokenUsage()), quota.reserved(caller, 1, TokenUsage()):
        pass


def test_what_a_peer_has_reserved_counts_against_the_budget() -> None:
    quota, counters, _ = a_ledger()
    caller = a_caller(budget_tokens=1000, budget_period="total")
    counters.merge([["two", "alice", "total", 0, 600, 0]], NOON)
    quota.peers["two"] = {"alice": HeldByRequests(streams=1, tokens=300)}
    assert "100 are left" in str(refusal(quota, caller, 101))
    assert quota.used(caller.accounts[0]) == 600


def test_who_has_no_limits_is_not_refused_and_counted_by_day_and_month_alone() -> None:
    quota, counters, _ = a_ledger()
    with quota.reserved(Caller("free"), 10**9, TokenUsage(prompt=5)) as reservation:
        assert reservation.headers == () and quota.held("free") == HeldByRequests(1, 10**9)
    assert quota.open == {} and {row[2]: row[3:5] for row in counters.changes()[0]} == {
        "2027-01-15": (1, 5),
        "2027-01": (1, 5),
    }


TEAM = Team("research", Limits(requests_per_minute=3, tokens_per_minute=500, budget_tokens=1000, max_streams=2))
ALICE, BOB = (
    Caller(name, limits=Limits(budget_tokens=800, budget_period="total"), team=TEAM) for name in ("alice", "bob")
)


def test_a_team_s_limits_are_shared_by_its_callers_and_each_one_s_own_count_beside_them() -> None:
    quota, _, clock = a_ledger()
    use(quota, ALICE, 300, 100, 200)
    assert "alice has" not in str(refusal(quota, BOB, 250))
    refused = refusal(quota, BOB, 250)  # 300 + 250 tokens a minute
    assert refused.code == "rate_limit_exceeded" and "the team research may use 500 tokens a minute" in str(refused)
    use(quota, BOB, 150, 50, 100)
    use(quota, ALICE, 1, 1, 0)
    assert "the team research may use 3 requests" in str(refusal(quota, BOB, 1))
    clock.now += 120
    with quota.reserved(ALICE, 10, TokenUsage()), quota.reserved(BOB, 10, TokenUsage()):
        assert "the team research may have 2 requests open" in str(refusal(quota, ALICE, 1))
        with pytest.raises(ApiError), quota.arriving(BOB):
            pass
    clock.now += 120
    use(quota, BOB, 400, 200, 200)
    clock.now += 120
    refused = refusal(quota, ALICE, 200)
    assert refused.code == "insufficient_quota" and "the team research has a budget of 1000 tokens a month" in str(
        refused
    )
    assert "this key has a budget" in str(refusal(quota, BOB, 300)), "his own, of which 250 are left, comes first"
    assert quota.open == {} and quota._arriving == {}
    assert [quota.used(account) for account in ALICE.accounts] == [301, 851]


def test_the_headers_tell_the_limit_of_which_less_is_left() -> None:
    quota, _, _ = a_ledger()
    with quota.reserved(ALICE, 10, TokenUsage()) as reservation:
        reported = dict(reservation.headers)
    assert reported[b"x-ratelimit-limit-budget"] == b"800" and reported[b"x-ratelimit-limit-requests"] == b"3"
    use(quota, BOB, 500, 500, 0)
    quota._clock.now += 120  # type: ignore[attr-defined]
    with quota.reserved(ALICE, 10, TokenUsage()) as reservation:
        reported = dict(reservation.headers)
    assert (reported[b"x-ratelimit-limit-budget"], reported[b"x-ratelimit-remaining-budget"]) == (b"1000", b"490")
    assert len(reported) == len(reservation.headers)


def test_a_caller_sees_its_own_use_and_its_team_s_and_nobody_else_s() -> None:
    quota, _, _ = a_ledger()
    use(quota, ALICE, 300, 100, 200)
    use(quota, BOB, 50, 25, 25)
    with quota.reserved(ALICE, 20, TokenUsage()):
        report = json.loads(usage_report(ALICE, quota))
    assert report["caller"] == "alice" and "bob" not in json.dumps(report)
    assert report["open"] == {"requests": 1, "reserved_tokens": 20}
    assert report["day"] == {"period": "2027-01-15", "requests": 1, "tokens": 300}
    assert report["limits"] == {"budget": {"limit": 800, "remaining": 480, "reset_s": None}}
    team = report["team"]
    assert (team["name"], team["month"]) == ("research", {"period": "2027-01", "requests": 2, "tokens": 350})
    assert team["limits"]["tokens"] == {"limit": 500, "remaining": 130, "reset_s": 120.0}
    assert set(team["limits"]) == {"requests", "tokens", "budget"}
    alone = json.loads(usage_report(Caller("carol"), quota))
    assert (alone["limits"], alone["day"]["tokens"]) == ({}, 0) and "team" not in alone


@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=12), st.integers(1, 300), st.integers(0, 300))
def test_what_is_charged_while_a_request_is_open_and_at_its_end_is_what_it_used(
    steps: list[tuple[int, bool]], reserved: int, corrected: int
) -> None:
    """A gateway that was killed had charged nothing of what was open, however long that had run."""
    quota, counters, _ = a_ledger()
    caller, usage = Caller("alice", limits=Limits(budget_tokens=10**6, tokens_per_minute=10**6)), TokenUsage()
    with quota.reserved(caller, reserved, usage) as reservation:
        for tokens, known in steps:
            usage.output, usage.exact = usage.output + tokens, known
            before = quota.used(caller.accounts[0])
            more = quota.charge_open(reservation)
            assert (
                more == (reservation.used - before if known else 0) and quota.used(caller.accounts[0]) == before + more
            )
            held = quota.held("alice").tokens
            assert held == max(0, reserved - quota.used(caller.accounts[0])), "what is charged is not held beside it"
        if corrected < usage.output:
            usage.output = corrected  # another engine, without a journal, counts in another way
    assert quota.used(caller.accounts[0]) == usage.output and quota.open == {}
    minute = periods.name("minute", NOON)
    assert counters.tokens("alice", minute) == usage.output
