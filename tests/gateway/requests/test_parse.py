"""What the gateway reads: keys, request bodies, headers, pods and streams, one pure function at a time."""

import asyncio
import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.exchanges import RecordingClient, a_request, of
from gateway.lab.stage import KEY, hashed
from topmast_gateway.identity import api_keys
from topmast_gateway.kubernetes.resources import pod_of
from topmast_gateway.messages import headers
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.requests import body, parse


def secret(**entries: str) -> dict[str, str]:
    return {name: base64.b64encode(text.encode()).decode() for name, text in entries.items()}


def name_of(known: api_keys.ApiKeys, key: bytes) -> str | None:
    found = known.find(key)
    return found.caller.name if found else None


def test_a_key_opens_by_its_hash_alone() -> None:
    known = api_keys.from_secret(secret(alice=hashed(KEY), bob=hashed("tm-other") + "\n"))
    assert (name_of(known, KEY.encode()), name_of(known, b"tm-other")) == ("alice", "bob")
    for wrong in (b"", KEY[:-1].encode(), hashed(KEY).encode(), hashed(KEY)[7:].encode(), b"x" * 100_000):
        assert known.find(wrong) is None


@pytest.mark.parametrize("entry", ["", KEY, "sha256:", "sha256:" + "g" * 64, "sha256:" + "A" * 64, "md5:" + "a" * 32])
def test_a_malformed_entry_opens_nothing(entry: str) -> None:
    known = api_keys.from_secret(secret(bad=entry, good=hashed(KEY)))
    assert len(known) == 1
    assert name_of(known, entry.encode()) in (None, "good")


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (b"Bearer x", b"x"),
        (b"bearer  x ", b"x"),
        (b"Basic x", None),
        (b"Bearer", None),
        (b"Bearer ", None),
        (None, None),
    ],
)
def test_only_a_bearer_token_is_a_key(header: bytes | None, token: bytes | None) -> None:
    assert api_keys.bearer_token(header) == token


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"\xff\xfe\x00", "invalid_json"),
        (b"[" * 1_000_000, "invalid_json"),
        (b'{"model": ' + b"9" * 5000 + b"}", "missing_model"),
        (b'{"model": "\\ud800"}', "invalid_json"),
        (b'{"model": "m"} x', "invalid_json"),
        (b"{}", "missing_model"),
        (b'{"model": 3}', "missing_model"),
        (b'{"model": ""}', "missing_model"),
    ],
)
def test_a_body_that_names_no_model_is_a_400_with_the_reason(body: bytes, code: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse.parse_completion("/v1/completions", body)
    assert (refused.value.status, refused.value.code) == (400, code)


def estimate_tokens(fields: dict[str, Any], size: int) -> int:
    encoded = {name: json.dumps(value).encode() for name, value in fields.items()}
    return parse.estimate_tokens(encoded, size, parse.count_answers(encoded))


@pytest.mark.parametrize("value", [b"1", b'"true"', b'"false"', b"[]", b"{}", b"1.0"])
def test_a_stream_that_is_neither_true_nor_false_is_a_400(value: bytes) -> None:
    """Engines took 1 for true, and the gateway for false: the client got a stream inside of a whole answer."""
    with pytest.raises(ApiError) as refused:
        parse.parse_completion("/v1/completions", b'{"model":"m","stream":%b}' % value)
    assert (refused.value.status, refused.value.param) == (400, "stream")


@pytest.mark.parametrize(("value", "stream"), [(b"true", True), (b"false", False), (b"null", False)])
def test_a_stream_is_asked_for_by_true(value: bytes, stream: bool) -> None:
    assert parse.parse_completion("/v1/completions", b'{"model":"m", "stream" : %b }' % value).stream is stream


def test_each_tenant_has_cached_prompts_of_its_own() -> None:
    """Guessing a prompt bit by bit showed what another key had sent: by cached tokens and by the route."""
    text = "x" * 2000

    def asked(tenant: str, **more: str) -> parse.CompletionRequest:
        return parse.parse_completion(
            "/v1/completions", json.dumps({"model": "m", "prompt": text, **more}).encode(), b"", tenant
        )

    alice, again, bob, nobody = asked("alice"), asked("alice"), asked("bob"), asked("")
    assert alice.body == again.body and alice.chain == again.chain
    salts = [json.loads(one.body).get("cache_salt") for one in (alice, bob, asked("alice", cache_salt="mine"), nobody)]
    assert len(set(salts)) == 4 and salts[3] is None
    stolen = asked("bob", cache_salt=salts[0])
    assert json.loads(stolen.body)["cache_salt"] not in salts, "nobody gets into another one's part by naming it"
    chains = [one.chain.blocks[0] for one in (alice, bob, asked("alice", cache_salt="mine"), nobody, stolen)]
    assert len(set(chains)) == 5


@given(st.binary(max_size=300))
def test_no_body_is_any_other_error(body: bytes) -> None:
    for text in (body, b'{"model":"m","messages":' + body + b"}", b'{"model":"m","prompt":[' + body + b"]}"):
        with contextlib.suppress(ApiError):
            parse.parse_completion("/v1/completions", text, b"", "alice")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@given(
    st.dictionaries(st.sampled_from(["max_tokens", "max_completion_tokens", "n", "stream"]), JSON),
    st.integers(0, 2**23),
)
def test_no_field_makes_a_request_free_or_endless(fields: dict[str, Any], size: int) -> None:
    assert 1 <= estimate_tokens(fields, size) <= size + 32_768 * 128


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["a"] * 20, "max_tokens": 100},
        {"prompt": [[1, 2]] * 10, "n": 2, "max_tokens": 100},
        {"max_tokens": "2000"},
        {
            "max_tokens": 2000.0,
            "max_completion_tokens": 1,
        },  # only one of them counts, and which one is the engine's word
    ],
)
def test_the_longest_answer_is_reserved_however_it_is_asked_for(fields: dict[str, Any]) -> None:
    assert estimate_tokens(fields, 0) == 2000


async def test_a_body_that_stops_coming_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "_BODY_PROGRESS_S", 0.05)
    pieces = [b"x"] * 2

    async def receive() -> bytes:
        return pieces.pop() if pieces else await asyncio.Future()

    with pytest.raises(ApiError) as refused:
        await body.read_body(a_request(RecordingClient(of(receive))), lambda _: None)
    assert refused.value.status == 408 and (b"connection", b"close") in refused.value.headers


async def test_a_body_that_drips_is_a_408_and_a_long_one_that_flows_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "_BODY_PROGRESS_S", 0.1)

    async def read(piece: bytes, pieces: int) -> bytes:
        left = pieces

        async def receive() -> bytes:
            nonlocal left
            left -= 1
            await asyncio.sleep(0.02)
            return piece if left >= 0 else b""

        return await body.read_body(a_request(RecordingClient(of(receive))), lambda _: None)

    assert len(await read(b"x" * 65_536, 12)) == 12 * 65_536
    with pytest.raises(ApiError) as refused:
        await read(b"x", 200)  # who sends a byte now and then would hold a place for days
    assert refused.value.status == 408


def test_a_longer_prompt_and_a_longer_answer_cost_more() -> None:
    short = estimate_tokens({"max_tokens": 10}, 100)
    assert short < estimate_tokens({"max_tokens": 10}, 1000)
    assert short < estimate_tokens({"max_tokens": 20}, 100) < estimate_tokens({"max_tokens": 20, "n": 2}, 100)


@given(st.dictionaries(st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1).map(str.encode), st.binary(max_size=20)))
def test_nothing_but_content_trace_terms_and_request_id_goes_to_an_engine(given_headers: dict[bytes, bytes]) -> None:
    passed = headers.towards_engine(given_headers, "req-1")
    allowed = {"content-type", "accept", "user-agent", "traceparent", "tracestate", "x-request-id", "accept-encoding"}
    terms = {"x-request-timeout", "x-request-timing"}
    assert set(passed) <= allowed | terms and passed["x-request-id"] == "req-1"


def test_headers_of_the_connection_do_not_come_back() -> None:
    raw = [(b"Connection", b"close, X-Hop"), (b"X-Hop", b"1"), (b"Transfer-Encoding", b"chunked"), (b"X-Kept", b"2")]
    assert headers.towards_client(raw) == [(b"x-kept", b"2")]


@pytest.mark.parametrize("bad", [b"", b"a b", b"a\r\nx: y", b"x" * 129, "ü".encode()])
def test_a_strange_request_id_is_replaced(bad: bytes) -> None:
    assert headers.request_id({b"x-request-id": bad}).startswith("req-")
    assert headers.request_id({b"x-request-id": b"mine-1"}) == "mine-1"


def a_pod(**changes: Any) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "metadata": {"uid": "u", "namespace": "ns", "name": "p", "labels": {"topmast.dev/model": "m"}},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    for part, values in changes.items():
        pod[part] = {**pod[part], **values}
    return json.loads(json.dumps(pod))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
        {"metadata": {"annotations": {"topmast.dev/draining": "true"}}},
        {"metadata": {"labels": {}}},
        {"status": {"podIP": None}},
        {"status": {"conditions": None}},
        {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}},
        {"status": {"conditions": [{"type": "ContainersReady", "status": "True"}]}},
    ],
)
def test_a_pod_that_is_leaving_or_not_ready_is_not_routable(changes: dict[str, Any]) -> None:
    assert pod_of(a_pod()) is not None
    assert pod_of(a_pod(**changes)) is None


def test_an_ipv6_pod_has_a_usable_address() -> None:
    pod = pod_of(a_pod(status={"podIP": "fd00::1"}))
    assert pod is not None and pod.address == "[fd00::1]:8000"
