"""The choice of a pod: its cache, unless too much waits there; its revision; and the count behind it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topmast_gateway.messages.completion import CompletionRequest
from topmast_gateway.routing.endpoint_load import EndpointLoads
from topmast_gateway.routing.endpoint_picker import Choice, EndpointPicker, of_revision, ranking
from topmast_gateway.routing.load_report import LoadReport
from topmast_gateway.routing.model_table import Model, Pod, Route
from topmast_gateway.routing.prefix_hash import prefix_chain, session_digest

PODS = [Pod(str(number), "ns", f"pod-{number}", "ns/m", "127.0.0.1:8000") for number in range(4)]
MODEL = Model("ns", "m")
COSTS = st.lists(st.integers(1, 10_000), min_size=1, max_size=60)
SYSTEM = "You are the assistant of a shop that sells everything. " * 100  # 5500 bytes, about 1400 tokens


def request(tokens: int = 300, *turns: str, system: str = SYSTEM, session: str = "") -> CompletionRequest:
    """A chat with these turns, the user's and the assistant's alternating; without turns a request without a prompt."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(turns)]
    text = json.dumps([{"role": "system", "content": system}, *messages]).encode()
    chain = prefix_chain({"messages": text} if turns else {})
    named = session_digest(session.encode())
    return CompletionRequest("/v1/chat/completions", b"", "m", True, tokens + chain.tokens, chain=chain, session=named)


def choose(picker: EndpointPicker, asked: CompletionRequest, pods: list[Pod] = PODS, model: Model = MODEL) -> Choice:
    return picker.choose(Route(model, tuple(pods)), pods, asked)


def least(loads: EndpointLoads, pods: list[Pod] = PODS) -> Pod:
    """Where a request that shares nothing goes."""
    return choose(EndpointPicker(loads), request(1), pods).pod


def tokens(loads: EndpointLoads) -> dict[str, int]:
    return {load.pod.uid: load.tokens for load in loads}


@given(COSTS)
def test_no_pod_has_more_than_one_request_above_the_least_loaded(costs: list[int]) -> None:
    loads = EndpointLoads()
    with ExitStack() as open_requests:
        for cost in costs:
            open_requests.enter_context(loads.sending(least(loads), cost))
        counted = tokens(loads)
        assert sum(counted.values()) == sum(costs)
        assert max(counted.values()) - min(counted.get(pod.uid, 0) for pod in PODS) <= max(costs)


@given(st.lists(st.tuples(st.sampled_from(PODS), st.integers(1, 1000), st.booleans(), st.booleans()), max_size=50))
def test_whatever_ends_and_however_everything_is_given_back_once(steps: list[tuple[Pod, int, bool, bool]]) -> None:
    loads = EndpointLoads()
    for pod, cost, answers, fails in steps:
        failure = pytest.raises(RuntimeError) if fails else ExitStack()
        with failure, loads.sending(pod, cost, cost // 2) as credit:
            assert tokens(loads)[pod.uid] == cost
            if answers:
                credit.first_token()
                credit.first_token()
                assert tokens(loads)[pod.uid] == cost - cost // 2
            if fails:
                raise RuntimeError
    assert all(load.tokens == 0 and load.requests == 0 for load in loads)
    loads.forget(present=set())
    assert list(loads) == []


def test_idle_pods_alternate() -> None:
    loads, order = EndpointLoads(), []
    for _ in range(8):
        pod = least(loads)
        with loads.sending(pod, 10):
            order.append(pod.name)
    assert order == [pod.name for pod in PODS] * 2


def test_equal_tokens_go_to_the_pod_with_fewer_requests() -> None:
    loads = EndpointLoads(lambda: 0.0)
    with loads.sending(PODS[0], 50), loads.sending(PODS[0], 50), loads.sending(PODS[1], 100):
        assert least(loads, PODS[:2]) == PODS[1]


def test_a_busy_pod_is_not_forgotten_when_it_leaves_the_routes() -> None:
    loads = EndpointLoads()
    with loads.sending(PODS[0], 7):
        loads.forget(present=set())
        assert tokens(loads) == {PODS[0].uid: 7}


def test_a_conversation_stays_where_its_history_is() -> None:
    picker = EndpointPicker(loads := EndpointLoads())
    for user in range(20):
        turns, homes = [f"Question {user}: " + "words " * 60], set()
        for turn in range(4):
            choice = choose(picker, request(300, *turns))
            homes.add(choice.pod.name)
            if turn:
                assert choice.matched > choice.blocks // 2
            turns += ["An answer. " * 40, f"And {turn}?" * 20]
        assert len(homes) == 1
    assert loads.in_flight_tokens(PODS) == [0, 0, 0, 0]


def test_a_shared_system_prompt_does_not_pin_everybody_to_one_pod() -> None:
    picker = EndpointPicker(EndpointLoads())
    with ExitStack() as stack:
        homes: Counter[str] = Counter()
        for user in range(40):
            asked = request(300, f"I am user {user}")
            choice = choose(picker, asked)
            stack.enter_context(picker.sending(choice, asked))
            homes[choice.pod.name] += 1
    assert len(homes) == 4 and max(homes.values()) <= 20, homes


def test_a_cache_is_not_worth_an_endless_queue() -> None:
    picker = EndpointPicker(loads := EndpointLoads())
    asked = request(300, "hello")
    home = choose(picker, asked).pod
    assert choose(picker, asked) == Choice(home, "prefix", len(asked.chain.blocks), len(asked.chain.blocks))
    with loads.sending(home, 2000):
        assert choose(picker, asked).pod == home
    with loads.sending(home, 100_000):
        assert choose(picker, asked).pod != home


def strangers() -> Iterator[CompletionRequest]:
    """Chats that begin differently, each of them."""
    return (request(0, f"{number} asks", system=f"prompt {number} " * 100) for number in itertools.count())


@pytest.fixture(scope="module")
def disappointed() -> tuple[EndpointPicker, EndpointLoads, Iterator[CompletionRequest]]:
    """A gateway that has found nothing again in hundreds of requests, and more of them."""
    picker, others = EndpointPicker(loads := EndpointLoads()), strangers()
    for asked in itertools.islice(others, 600):
        choose(picker, asked)
    return picker, loads, others


@given(COSTS)
def test_where_nothing_is_found_again_it_is_least_load(
    disappointed: tuple[EndpointPicker, EndpointLoads, Iterator[CompletionRequest]], costs: list[int]
) -> None:
    picker, loads, others = disappointed
    with ExitStack() as open_requests:
        for cost in costs:
            other = next(others)
            asked = msgspec.structs.replace(other, tokens=other.tokens + cost)
            before = loads.in_flight_tokens(PODS)
            choice = choose(picker, asked)
            assert before[PODS.index(choice.pod)] == min(before) and choice.matched == 0
            open_requests.enter_context(picker.sending(choice, asked))


def test_a_new_gateway_trusts_the_hash_and_one_that_found_nothing_does_not(
    disappointed: tuple[EndpointPicker, EndpointLoads, Iterator[CompletionRequest]],
) -> None:
    """Else two new ones would place every conversation by what is in flight, and look for it in different places."""
    old, old_loads, others = disappointed
    for asked in itertools.islice(others, 20):
        home = PODS[ranking(asked.chain.anchor, PODS)[0]]
        new = EndpointPicker(new_loads := EndpointLoads())
        with new_loads.sending(home, 100), old_loads.sending(home, 100):
            assert choose(new, asked).pod == home != choose(old, asked).pod
        new = EndpointPicker(new_loads := EndpointLoads())
        with new_loads.sending(home, 10_000):
            assert choose(new, asked).pod != home


def test_two_gateways_send_a_conversation_to_the_same_pod() -> None:
    """They never speak to each other; once caches have proved worth it, the hash is trusted."""
    here, there = EndpointPicker(EndpointLoads()), EndpointPicker(EndpointLoads())
    for picker in (here, there):
        for _ in range(100):
            choose(picker, request(300, "the same again and again"))
    same = 0
    for user in range(50):
        first = request(300, f"user {user} " * 100)
        later = request(300, f"user {user} " * 100, "yes " * 200, "why? " * 50)
        same += choose(here, first).pod == choose(there, later).pod
    assert same >= 45


def test_a_pod_that_came_back_has_an_empty_cache() -> None:
    picker = EndpointPicker(EndpointLoads())
    asked = request(300, "hello")
    home = choose(picker, asked).pod
    assert choose(picker, asked).matched == len(asked.chain.blocks)
    again = [replace(pod, ready_since="later") if pod == home else pod for pod in PODS]
    assert choose(picker, asked, again).matched == 0


def test_a_session_stays_at_its_pod_until_that_one_is_overloaded() -> None:
    picker = EndpointPicker(loads := EndpointLoads())
    chosen = [choose(picker, request(300, f"something new {turn}", session="s-1")) for turn in range(10)]
    assert {choice.pod for choice in chosen} == {chosen[0].pod}
    assert {choice.reason for choice in chosen} == {"affinity"}
    assert len({choose(picker, request(300, "hi", session=f"s-{user}")).pod for user in range(30)}) == 4
    with loads.sending(chosen[0].pod, 1_000_000):
        assert choose(picker, request(300, "hi", session="s-1")).pod != chosen[0].pod


def test_a_pod_that_leaves_moves_only_its_own_conversations() -> None:
    keys = [f"key {number}".encode() for number in range(300)]
    before = [PODS[ranking(key, PODS)[0]] for key in keys]
    left = PODS[:-1]
    after = [left[ranking(key, left)[0]] for key in keys]
    assert all(one == other for one, other in zip(before, after, strict=True) if one != PODS[-1])
    assert all(50 < count < 100 for count in Counter(before).values())


def revisions(new: int, old: int, keys: int = 2000) -> list[str]:
    pods = [replace(pod, revision="old" if number else "new") for number, pod in enumerate(PODS)]
    weights = {"new": new, "old": old}
    return [of_revision(pods, weights, f"key {number}".encode())[0].revision for number in range(keys)]


def test_a_canary_gets_its_share_and_a_conversation_never_goes_back() -> None:
    tenth, half = revisions(10, 90), revisions(50, 50)
    assert 0.07 < tenth.count("new") / 2000 < 0.13 and 0.45 < half.count("new") / 2000 < 0.55
    assert all(later == "new" for first, later in zip(tenth, half, strict=True) if first == "new")


def test_a_revision_without_weight_serves_only_where_no_other_can() -> None:
    assert set(revisions(0, 100)) == {"old"}
    pods = [replace(pod, revision="new") for pod in PODS]
    assert of_revision(pods, {"new": 0, "old": 100}, b"key") == pods
    assert of_revision(PODS, {}, b"key") == PODS
    weighted = replace(MODEL, weights=(("new", 0), ("old", 100)))
    mixed = [replace(PODS[0], revision="old"), *(replace(pod, revision="new") for pod in PODS[1:])]
    choice = choose(EndpointPicker(EndpointLoads()), request(300, "hello"), mixed, weighted)
    assert (choice.pod, choice.reason) == (mixed[0], "only")


def test_what_others_sent_counts_from_the_report_and_what_we_sent_at_once() -> None:
    now = 0.0
    loads = EndpointLoads(lambda: now)
    with loads.sending(PODS[0], 100), loads.sending(PODS[1], 100):
        loads.reported(PODS[0], LoadReport(running=3, waiting=2))  # four are not ours
        assert loads.in_flight_tokens(PODS) == [500, 100, 0, 0]
        with loads.sending(PODS[0], 100):
            assert loads.in_flight_tokens(PODS)[0] == 600
        now = 10.0  # the report is too old to mean anything
        assert loads.in_flight_tokens(PODS) == [100, 100, 0, 0]


def test_places_are_what_the_report_leaves_to_us_and_a_guess_without_one() -> None:
    now = 0.0
    loads = EndpointLoads(lambda: now)
    assert loads.places(PODS[0], 32) == 32
    with loads.sending(PODS[0], 100):
        assert loads.places(PODS[0], 32) == 32  # ours are no others
        loads.reported(PODS[0], LoadReport(running=5, waiting=0, max_num_seqs=8))
        assert loads.places(PODS[0], 32) == 4
        loads.reported(PODS[0], LoadReport(running=8, waiting=20, max_num_seqs=8))
        assert loads.places(PODS[0], 32) == 4  # half: who is second gets a part, too
        now = 10.0  # the report is too old to mean anything
        assert loads.places(PODS[0], 32) == 32


@pytest.mark.parametrize("gateways", [1, 2, 3, 6, 18])
def test_gateways_together_admit_no_more_than_a_pod_runs(gateways: int) -> None:
    """Each might always use half of a pod: eighteen of them admitted 288 requests to 32 places."""
    admitted = 0
    for _ in range(gateways):
        loads = EndpointLoads()
        loads.gateways = lambda: gateways
        loads.reported(PODS[0], LoadReport(running=32, waiting=100, max_num_seqs=32))
        admitted += loads.places(PODS[0], 32)
    assert admitted <= 32 + gateways - 1  # a part of a place is a place
