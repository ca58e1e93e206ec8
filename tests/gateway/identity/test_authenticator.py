"""Who calls, what that caller sees, and what guessing costs; without a cluster."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.exchanges import RecordingClient
from gateway.lab.stage import KEY, hashed
from topmast_gateway.flags import Network
from topmast_gateway.identity.api_key_entry import ApiKey, parse_entry
from topmast_gateway.identity.api_keys import ApiKeys
from topmast_gateway.identity.auth_throttle import MAX_ADDRESSES, AuthThrottle
from topmast_gateway.identity.authenticator import Authenticator
from topmast_gateway.identity.caller import Caller
from topmast_gateway.identity.client_ip import TrustedProxies
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.request import Header, Request
from topmast_gateway.observability.metrics import Metrics
from topmast_gateway.requests.visible_models import VisibleModels
from topmast_gateway.routing.model_table import Model, ModelTable, Pod

PAST = "2020-01-01T00:00:00Z"
OLD = "tm-" + "o" * 40


class Known:
    """Two keys, one of them expired."""

    synced = True
    keys = ApiKeys(
        [
            parse_entry("alice", hashed(KEY)),
            parse_entry("old", json.dumps({"hash": hashed(OLD), "expires": PAST})),
        ]
    )


def identity(per_minute: int = 3, trusted: tuple[Network, ...] = ()) -> Authenticator:
    return Authenticator(Known(), Metrics(), TrustedProxies(trusted), AuthThrottle(per_minute), None)


async def outcome(who: Authenticator, key: str | None, address: str = "10.0.0.1", **headers: str) -> Any:
    """The caller's name, or the refusal."""
    given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    if key is not None:
        given[b"authorization"] = f"Bearer {key}".encode()
    try:
        return (await who.caller(from_address(address, list(given.items())))).name
    except ApiError as refusal:
        return refusal


async def test_an_expired_key_is_called_expired() -> None:
    refused = await outcome(identity(), OLD)
    assert (refused.status, refused.code) == (401, "expired_api_key")
    assert "expired" in str(refused) and "'old'" in str(refused)


async def test_guessing_ends_in_429_and_a_right_key_is_let_in() -> None:
    """Behind a load balancer everybody has one address: somebody's wrong keys locked out all that were new to it."""
    who = identity(per_minute=3)
    assert [(await outcome(who, f"tm-{number}")).status for number in range(5)] == [401, 401, 401, 429, 429]
    refused = await outcome(who, "tm-again")
    assert refused.code == "too_many_failures" and 1 <= int(dict(refused.headers)[b"retry-after"]) <= 60
    assert await outcome(who, KEY) == "alice"
    assert (await outcome(who, "tm-other", "10.0.0.2")).status == 401


async def test_a_key_may_come_as_x_api_key_and_authorization_goes_before_it() -> None:
    assert await outcome(identity(), None, x_api_key=f" {KEY} ") == "alice"
    assert await outcome(identity(), KEY, x_api_key="tm-wrong") == "alice"
    assert (await outcome(identity(), "tm-wrong", x_api_key=KEY)).status == 401
    for empty in ("", " "):
        assert (await outcome(identity(), None, x_api_key=empty)).code == "invalid_api_key"
    assert (await outcome(identity(), None, authorization="Basic x", x_api_key=KEY)).status == 401


async def test_whoever_has_no_key_is_not_kept_connected() -> None:
    who = identity(per_minute=1)
    for key in (None, OLD, "tm-1", "tm-2"):
        assert (b"connection", b"close") in (await outcome(who, key)).headers


async def test_a_missing_or_an_expired_key_is_no_guess() -> None:
    who = identity(per_minute=1)
    for key in (None, OLD) * 5:
        assert (await outcome(who, key)).status == 401
    assert (await outcome(who, "tm-1")).status == 401


async def test_a_forwarded_address_counts_only_when_a_trusted_proxy_wrote_it() -> None:
    who = identity(per_minute=1)
    for number in range(3):
        refused = await outcome(who, "tm-x", x_forwarded_for=f"1.2.3.{number}")
    assert refused.status == 429  # a header did not make it another address
    behind = identity(per_minute=1, trusted=(ipaddress.ip_network("10.0.0.0/8"),))
    assert (await outcome(behind, "tm-x", x_forwarded_for="9.9.9.9, 1.2.3.4")).status == 401
    assert (await outcome(behind, "tm-x", x_forwarded_for="8.8.8.8, 1.2.3.4, 10.0.0.7")).status == 429
    assert (await outcome(behind, "tm-x", x_forwarded_for="1.2.3.5")).status == 401


def from_address(address: str, headers: list[Header]) -> Request:
    return Request("GET", "/", b"", headers, address, RecordingClient())


def peers(*networks: str) -> TrustedProxies:
    return TrustedProxies([ipaddress.ip_network(network) for network in networks])


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["6.6.6.6", "1.2.3.4, 10.9.9.9"], "1.2.3.4"),
        ("10.0.0.1", ["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        ("10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
        ("10.0.0.1", ["[2001:db8::1]:80"], "2001:db8::1"),
        ("10.0.0.1", ["1.2.3.4, unknown"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["\x00,,;"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("1.2.3.4", ["5.6.7.8"], "1.2.3.4"),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
    ],
)
def test_the_address_is_the_right_most_hop_that_is_not_trusted(client: str, forwarded: list[str], address: str) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    assert peers("10.0.0.0/8", "fd00::/8").address(from_address(client, headers)) == address
    assert peers().address(from_address("unknown", headers)) == "unknown"


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_no_header_breaks_the_search_for_an_address(values: list[bytes]) -> None:
    headers = [(b"x-forwarded-for", value) for value in values]
    assert peers("10.0.0.0/8").address(from_address("10.0.0.1", headers))


def test_a_window_ends_after_a_minute_and_memory_is_bounded() -> None:
    now = [0.0]
    guesses = AuthThrottle(2, clock=lambda: now[0])
    assert [guesses.failed("a") for _ in range(3)] == [None, None, 60]
    now[0] = 30.0
    assert guesses.failed("a") == 30
    now[0] = 60.0
    assert guesses.failed("a") is None
    for number in range(MAX_ADDRESSES + 500):
        guesses.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(guesses) == MAX_ADDRESSES
    assert guesses.failed("a") is None  # the oldest was forgotten


def test_an_ipv6_household_is_one_guesser() -> None:
    guesses = AuthThrottle(2)
    assert [guesses.failed(f"2001:db8::{number}") for number in range(1, 4)][2] is not None
    assert guesses.failed("2001:db8:0:1::1") is None


def test_zero_failures_per_minute_is_no_limit() -> None:
    guesses = AuthThrottle(0)
    assert {guesses.failed("a") for _ in range(100)} == {None} and len(guesses) == 0


ROUTES = ModelTable(
    [Model("team-a", "chat"), Model("team-b", "chat"), Model("team-b", "code"), Model("team-c", "draw")],
    [Pod("u", "team-a", "p", "team-a/chat", "10.0.0.1:8000")],
)


def names(caller: Caller) -> list[str]:
    return [card["id"] for card in json.loads(VisibleModels(ROUTES, caller).listing())["data"]]


def test_a_caller_sees_only_its_models_by_the_shortest_names_that_work_for_it() -> None:
    assert names(Caller("any")) == ["team-a/chat", "team-b/chat", "code", "draw"]
    assert names(Caller("a", ("team-a/*",))) == ["chat"]
    assert names(Caller("b", ("team-b/*", "team-c/d*"))) == ["chat", "code", "draw"]
    for caller in (Caller("any"), Caller("a", ("team-a/*",)), Caller("b", ("team-b/*",))):
        view = VisibleModels(ROUTES, caller)
        for name in names(caller):
            assert caller.may_call(view.find(name).model.key)
            assert json.loads(view.card(view.find(name), name))["id"] == name


def test_an_alias_is_a_name_like_any_other_and_in_the_list() -> None:
    models = [
        Model("team-a", "small", created=1, aliases=("gpt-4o", "meta-llama/Llama-3.1-8B")),
        Model("team-b", "large", created=2, aliases=("gpt-4o", "o3")),
    ]
    routes = ModelTable(models)
    view = VisibleModels(routes, Caller("a", ("team-a/*",)))
    listed = json.loads(view.listing())["data"]
    assert [card["id"] for card in listed] == ["small", "gpt-4o", "meta-llama/Llama-3.1-8B"]
    assert listed[1]["root"] == "team-a/small" and "root" not in listed[0]
    for asked in ("gpt-4o", "team-a/gpt-4o", "meta-llama/Llama-3.1-8B", "team-a/meta-llama/Llama-3.1-8B", "small"):
        assert view.find(asked).model is models[0]
        assert json.loads(view.card(view.find(asked), asked))["id"] == asked
    everybody = VisibleModels(routes, Caller("any"))
    with pytest.raises(ApiError) as refused:
        everybody.find("gpt-4o")
    assert refused.value.code == "model_ambiguous" and "team-a/small or team-b/large" in str(refused.value)
    assert everybody.find("team-b/gpt-4o").model is models[1]
    ids = [card["id"] for card in json.loads(everybody.listing())["data"]]
    assert ids == ["small", "team-a/gpt-4o", "meta-llama/Llama-3.1-8B", "large", "team-b/gpt-4o", "o3"]
    for asked in ("o3", "team-b/o3"):  # says nothing of other teams' aliases, and opens nothing
        with pytest.raises(ApiError) as refused:
            view.find(asked)
        assert refused.value.code == ("model_not_allowed" if "/" in asked else "model_not_found")
        assert "large" not in str(refused.value)


def test_fallbacks_are_those_that_there_are_and_that_the_caller_may_call() -> None:
    first = Model("team-a", "chat", fallbacks=("team-a/none", "team-b/code", "team-a/chat", "team-c/draw"))
    routes = ModelTable([first, Model("team-b", "code"), Model("team-c", "draw")])
    route = routes.by_key("team-a/chat")
    assert route

    def keys(caller: Caller) -> list[str]:
        return [found.model.key for found in VisibleModels(routes, caller).fallbacks(route)]

    assert keys(Caller("any")) == ["team-b/code", "team-c/draw"]
    assert keys(Caller("a", ("team-a/*", "team-c/*"))) == ["team-c/draw"]
    assert keys(Caller("a", ("team-a/*",))) == []


@pytest.mark.parametrize("asked", ["team-b/code", "team-b/chat", "team-b/there-is-none", "nowhere/chat"])
def test_a_model_outside_of_the_patterns_is_a_403_whether_there_is_one_or_not(asked: str) -> None:
    with pytest.raises(ApiError) as refused:
        VisibleModels(ROUTES, Caller("a", ("team-a/*",))).find(asked)
    assert (refused.value.status, refused.value.code, refused.value.param) == (403, "model_not_allowed", "model")
    assert "team-a/*" in str(refused.value) and asked in str(refused.value)


@pytest.mark.parametrize("asked", ["nothing", "code", "draw"])
def test_a_name_says_nothing_of_other_teams_models(asked: str) -> None:
    with pytest.raises(ApiError) as refused:
        VisibleModels(ROUTES, Caller("a", ("team-a/*",))).find(asked)
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    message = str(refused.value).replace(repr(asked), "")
    assert "chat" in message and not any(word in message for word in ("draw", "code", "team-b", "team-c"))


def test_a_name_of_two_namespaces_is_ambiguous_only_to_who_may_call_both() -> None:
    with pytest.raises(ApiError) as refused:
        VisibleModels(ROUTES, Caller("any")).find("chat")
    assert refused.value.code == "model_ambiguous"
    assert VisibleModels(ROUTES, Caller("a", ("team-a/*",))).find("chat").model.namespace == "team-a"
    with pytest.raises(ApiError) as refused:
        VisibleModels(ROUTES, Caller("c", ("team-c/*",))).find("chat")
    assert refused.value.status == 404


def test_a_name_keeps_its_meaning_while_its_model_is_created_again() -> None:
    """Requests for the first team's model were answered by the second team's meanwhile."""
    models = [Model("team-a", "chat"), Model("team-b", "chat")]
    for caller in (Caller("any"), Caller("both", ("team-a/*", "team-b/*"))):
        with pytest.raises(ApiError) as refused:
            VisibleModels(ModelTable(models[1:], gone=models[:1]), caller).find("chat")
        assert refused.value.code == "model_ambiguous"
        assert VisibleModels(ModelTable(models[1:], gone=models[:1]), caller).find("team-b/chat")
    with pytest.raises(ApiError) as refused:
        VisibleModels(ModelTable(models[1:], gone=models[:1]), Caller("a", ("team-a/*",))).find("chat")
    assert refused.value.code == "model_not_found"
    assert VisibleModels(ModelTable(models[1:]), Caller("any")).find("chat").model.namespace == "team-b"


def test_a_key_is_compared_by_its_hash_alone() -> None:
    assert isinstance(Known.keys.find(KEY.encode()), ApiKey)
    for wrong in (KEY[:-1], KEY + "x", KEY.upper(), hashed(KEY), ""):
        assert Known.keys.find(wrong.encode()) is None
