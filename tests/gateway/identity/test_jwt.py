"""Tokens: one issuer, one audience, signatures by published keys only; and how those keys stay up to date."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from gateway.lab.exchanges import RecordingClient
from gateway.lab.stage import soon
from gateway.lab.tokens import AUDIENCE, ISSUER, JWKS, OTHER, PRIVATE, public, token
from topmast_gateway.access import read_access
from topmast_gateway.flags import parser
from topmast_gateway.identity import jwks
from topmast_gateway.identity.api_keys import ApiKeys
from topmast_gateway.identity.auth_throttle import AuthThrottle
from topmast_gateway.identity.authenticator import Authenticator, BadToken
from topmast_gateway.identity.caller import Caller, Limits, Team
from topmast_gateway.identity.client_ip import TrustedProxies
from topmast_gateway.identity.jwks import Jwks, open_jwks, parse_jwks
from topmast_gateway.identity.jwt import JwtRules, JwtVerifier
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.messages.request import Request
from topmast_gateway.observability.metrics import Metrics


def known(raw: bytes = JWKS) -> Jwks:
    keys = Jwks("test", _never, 300)
    keys.keys = parse_jwks(raw)
    return keys


async def _never() -> bytes:
    raise ValueError("nothing to read")


def callers(**terms: Any) -> JwtVerifier:
    return JwtVerifier(known(), JwtRules(ISSUER, AUDIENCE, **terms))


@pytest.mark.parametrize("algorithm", list(PRIVATE))
async def test_a_token_makes_a_caller_with_its_models_and_the_gateways_limits(algorithm: str) -> None:
    limits = Limits(tokens_per_minute=1000)
    caller = await callers(limits=limits).caller(token(algorithm, aud=["else", AUDIENCE]))
    assert caller == Caller("jwt:alice", ("team-a/*",), limits)


async def test_another_claim_may_name_the_caller_and_the_models() -> None:
    other = callers(name_claim="email", models_claim="groups")
    caller = await other.caller(token(email="a@example.org", groups=["*"], topmast_models=None))
    assert (caller.name, caller.models) == ("jwt:a@example.org", ("*",))


async def test_a_claim_may_name_a_team_whose_limits_a_token_shares() -> None:
    verifier = callers(team_claim="team")
    assert (await verifier.caller(token(team="research"))).team == Team("research")
    assert (await verifier.caller(token())).team is None and (
        await callers().caller(token(team="research"))
    ).team is None
    for wrong in (["research"], "", "a/b", 7):
        with pytest.raises(BadToken, match="no name of a team"):
            await verifier.caller(token(team=wrong))

    class Known:
        synced = True
        keys = ApiKeys((), [Team("research", Limits(max_streams=3))])

    who = Authenticator(Known(), Metrics(), TrustedProxies(), AuthThrottle(0), verifier)

    async def caller(team: str) -> Caller:
        shown = [(b"authorization", b"Bearer " + token(team=team))]
        return await who.caller(Request("GET", "/", b"", shown, "10.0.0.1", RecordingClient()))

    assert (await caller("research")).team == Team("research", Limits(max_streams=3))
    with pytest.raises(ApiError) as refused:
        await caller("another")
    assert (refused.value.status, refused.value.code) == (403, "team_unknown")


def unsigned(**header: Any) -> bytes:
    payload = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "exp": time.time() + 300, "topmast_models": ["*"]}
    parts = (json.dumps(part).encode() for part in ({"typ": "JWT", **header}, payload))
    return b".".join([*(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts), b""])


def hmac_by_public_key() -> bytes:
    """The classic: the public key taken for a secret."""
    pem = (
        PRIVATE["RS256"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    head, body, _ = unsigned(alg="HS256", kid="RS256").split(b".")
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    return b".".join([head, body, base64.urlsafe_b64encode(mac.sign(head + b"." + body, pem)).rstrip(b"=")])


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: token(key=OTHER), "signature"),
        (lambda: token(headers={"kid": "none-such"}), "does not publish"),
        (lambda: unsigned(alg="ES256"), "does not publish"),
        (lambda: token(headers={"kid": "RS256"}), "signature"),
        (lambda: token(key=OTHER, headers={"jwk": public("ES256", OTHER), "jku": "https://evil.example"}), "signature"),
        (lambda: unsigned(alg="none", kid="ES256"), "signature"),
        (lambda: unsigned(alg="None"), "publish"),
        (hmac_by_public_key, "signature"),
        (lambda: token(headers={"crit": ["b64"], "b64": True}), "form"),
        (lambda: token(iss="https://evil.example"), "somebody else"),
        (lambda: token(aud="other"), "somebody else"),
        (lambda: token(iss=None), "'iss'"),
        (lambda: token(aud=None), "'aud'"),
        (lambda: token(exp=None), "'exp'"),
        (lambda: token(sub=None), "'sub'"),
        (lambda: token(sub=""), "no name"),
        (lambda: token(sub="a\nb"), "no name"),
        (lambda: token(sub="x" * 129), "no name"),
        (lambda: token(exp=int(time.time()) - 31), "expired"),
        (lambda: token(nbf=int(time.time()) + 60), "not valid yet"),
        (lambda: token(exp="soon"), "not valid"),
        (lambda: token(exp=float("inf")), "not valid"),
        (lambda: token()[:-4] + b"AAAA", "signature"),
        (lambda: token(padding="x" * 9000), "longer than"),
        (lambda: b"a.b.c", "form"),
        (lambda: base64.urlsafe_b64encode(b"[" * 5000).rstrip(b"=") + b".e30.e30", "form"),
    ],
)
async def test_a_token_that_is_not_beyond_doubt_is_refused_with_the_reason(bad: Any, says: str) -> None:
    with pytest.raises(BadToken) as refused:
        await callers().caller(bad())
    assert says in str(refused.value)


async def test_clocks_may_differ_by_thirty_seconds_and_an_old_token_is_no_guess() -> None:
    now = int(time.time())
    assert (await callers().caller(token(exp=now - 20, nbf=now + 20))).name == "jwt:alice"
    for claims in ({"exp": now - 60}, {"nbf": now + 60}):
        with pytest.raises(BadToken) as refused:
            await callers().caller(token(**claims))
        assert not refused.value.guess
    for forged in (token(exp=now - 60, key=OTHER), token(iss="https://evil.example"), b"a.b.c"):
        with pytest.raises(BadToken) as refused:
            await callers().caller(forged)
        assert refused.value.guess


async def test_a_token_without_a_key_id_is_checked_by_the_only_key_there_is() -> None:
    alone = JwtVerifier(known(json.dumps({"keys": [public("ES256")]}).encode()), JwtRules(ISSUER, AUDIENCE))
    nameless = [jwt.encode(jwt.decode(token(), options={"verify_signature": False}), key, "ES256").encode()
                for key in (PRIVATE["ES256"], OTHER)]  # fmt: skip
    assert (await alone.caller(nameless[0])).name == "jwt:alice"
    for verify, shown in ((alone, nameless[1]), (callers(), nameless[0])):
        with pytest.raises(BadToken):
            await verify.caller(shown)


@pytest.mark.parametrize("models", [None, [], "team-a/*", ["chat"], [3], {"team-a/*": 1}])
async def test_a_token_without_models_opens_none(models: Any) -> None:
    with pytest.raises(ApiError) as refused:
        await callers().caller(token(topmast_models=models))
    assert refused.value.status == 403 and "topmast_models" in str(refused.value)


async def test_default_models_are_for_tokens_without_the_claim_and_not_for_a_wrong_one() -> None:
    lenient = callers(default_models=("team-b/*",))
    assert (await lenient.caller(token(topmast_models=None))).models == ("team-b/*",)
    with pytest.raises(ApiError):
        await lenient.caller(token(topmast_models=[]))


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=100))
def test_no_bytes_make_a_caller_or_a_crash(header: bytes, payload: bytes, signature: bytes) -> None:
    parts = (header, payload, signature)
    for made in (b".".join(parts), b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)):
        with pytest.raises(BadToken):
            asyncio.run(callers().caller(made))


def test_only_public_keys_for_these_signatures_are_taken() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    curve = ec.generate_private_key(ec.SECP384R1())
    private = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(OTHER))
    refused = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"},
        public("RS256", weak),
        public("RS256", alg="RS512"),
        public("ES256", curve),
        public("ES256", use="enc"),
        {**private, "kid": "p"},
        {"kty": "RSA", "n": "!", "e": "AQAB"},
        {},
    ]
    kept = parse_jwks(json.dumps({"keys": [*refused, public("EdDSA")]}).encode())
    assert [(key.kid, key.algorithm) for key in kept] == [("EdDSA", "EdDSA")]
    for raw in (b"", b"[]", b"{}", b'{"keys": 3}', b'{"keys": [3]}', b'{"keys": []}', b"[" * 100_000):
        with pytest.raises(ValueError):
            parse_jwks(raw)


ODD = st.dictionaries(
    st.sampled_from(["n", "e", "x", "y", "crv", "kid", "use", "alg", "kty"]),
    st.none() | st.integers() | st.text(max_size=5) | st.lists(st.none(), max_size=1),
    max_size=4,
)


@given(st.sampled_from(list(PRIVATE)), ODD)
def test_an_odd_key_does_not_cost_the_others(algorithm: str, odd: dict[str, Any]) -> None:
    keys = parse_jwks(json.dumps({"keys": [{**public(algorithm), **odd}, public("EdDSA", kid="good")]}).encode())
    assert keys[-1].kid == "good"


async def test_a_file_that_is_replaced_counts_at_once_and_a_broken_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jwks, "_FILE_EVERY_S", 0.02)
    caplog.set_level(logging.INFO)
    file = tmp_path / "jwks.json"
    file.write_bytes(json.dumps({"keys": [public("ES256")]}).encode())
    keys = open_jwks(str(file))
    following = asyncio.create_task(keys.follow())
    try:
        for content, kids, says in (
            ([public("EdDSA")], ["EdDSA"], "1 token keys from"),
            (None, ["EdDSA"], "going on with the last ones"),
            ([public("EdDSA"), public("RS256")], ["EdDSA", "RS256"], "2 token keys from"),
        ):
            new = tmp_path / "new"
            new.write_bytes(b"{" if content is None else json.dumps({"keys": content}).encode())
            new.replace(file)
            await soon(lambda says=says: says in caplog.text, "the new content was read")  # type: ignore[misc]
            assert [key.kid for key in keys.keys] == kids
    finally:
        following.cancel()


class Issuer:
    """Publishes keys at a URL of its own, and counts who asks."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.asked = 0
        self.status = 200
        self.padding = ""
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        await asyncio.sleep(0.02)
        await self.may_answer.wait()
        elsewhere = {"Location": f"{self.url}/elsewhere"} if self.status == 302 else {}
        return web.json_response({"keys": self.keys, "padding": self.padding}, status=self.status, headers=elsewhere)

    async def elsewhere(self, request: web.Request) -> web.Response:
        """Where a redirect leads: a good set, but not where the flag says that it is."""
        return web.json_response({"keys": [public("EdDSA")]})


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer, app = Issuer(), web.Application()
    app.router.add_get("/jwks", issuer.answer)
    app.router.add_get("/jwks/elsewhere", issuer.elsewhere)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    yield issuer
    await runner.cleanup()


async def test_an_unknown_key_id_asks_the_issuer_once_and_then_not_for_half_a_minute(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.keys = [public("ES256")]
    verify = JwtVerifier(open_jwks(issuer.url), JwtRules(ISSUER, AUDIENCE))
    assert [caller.name for caller in await asyncio.gather(*(verify.caller(token()) for _ in range(5)))] == [
        "jwt:alice"
    ] * 5
    assert issuer.asked == 1
    issuer.keys.append(public("EdDSA"))
    for _ in range(5):
        with pytest.raises(BadToken):
            await verify.caller(token("EdDSA"))
    assert issuer.asked == 1
    monkeypatch.setattr(jwks, "UNKNOWN_KEY_EVERY_S", 0.0)
    assert (await verify.caller(token("EdDSA"))).name == "jwt:alice" and issuer.asked == 2


async def test_the_last_known_keys_count_while_the_issuer_is_away(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "UNKNOWN_KEY_EVERY_S", 0.0)
    issuer.keys = [public("ES256")]
    keys = open_jwks(issuer.url)
    verify = JwtVerifier(keys, JwtRules(ISSUER, AUDIENCE))
    issuer.status = 503
    with pytest.raises(ApiError) as refused:
        await verify.caller(token())
    assert refused.value.status == 503 and dict(refused.value.headers)[b"retry-after"]
    issuer.status = 200
    await keys.refresh()
    for issuer.status, issuer.keys in ((503, [public("ES256")]), (200, []), (302, [public("EdDSA")])):
        await keys.refresh()
        assert (await verify.caller(token())).name == "jwt:alice"
    issuer.status, issuer.keys, issuer.padding = 200, [public("EdDSA")], "x" * 2**20
    await keys.refresh()
    assert (await verify.caller(token())).name == "jwt:alice"  # it was too large to be read to its end


async def test_an_issuer_that_hangs_holds_up_nobody_for_long_and_a_client_that_leaves_cuts_nobody_off(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.keys = [public("ES256")]
    verify = JwtVerifier(open_jwks(issuer.url), JwtRules(ISSUER, AUDIENCE))
    issuer.may_answer.clear()
    leaves, stays = (asyncio.create_task(verify.caller(token())) for _ in range(2))
    await soon(lambda: issuer.asked == 1, "both wait for the issuer")
    leaves.cancel()
    await asyncio.wait([leaves])
    issuer.may_answer.set()
    assert (await stays).name == "jwt:alice" and issuer.asked == 1
    monkeypatch.setattr(jwks, "_FETCH_TIMEOUT", aiohttp.ClientTimeout(total=0.1))
    issuer.may_answer.clear()
    with pytest.raises(ApiError) as refused:
        await asyncio.wait_for(JwtVerifier(open_jwks(issuer.url), JwtRules(ISSUER, AUDIENCE)).caller(token()), 30)
    assert refused.value.status == 503
    issuer.may_answer.set()


async def test_an_issuer_that_was_away_at_the_start_is_asked_again_soon(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "_FIRST_EVERY_S", 0.02)
    issuer.status, issuer.keys = 503, [public("ES256")]
    keys = open_jwks(issuer.url)
    following = asyncio.create_task(keys.follow())
    await soon(lambda: issuer.asked >= 2, "asked again")
    issuer.status = 200
    await soon(lambda: bool(keys.keys), "the keys are there")
    asked = issuer.asked
    await asyncio.sleep(0.2)
    assert issuer.asked == asked  # now it is left in peace
    following.cancel()


async def test_every_flag_of_tokens_reaches_their_callers(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(JWKS)
    flags = ["--keys-secret", "keys", "--jwt-jwks", str(tmp_path / "jwks.json"), "--jwt-issuer", ISSUER]
    flags += ["--jwt-audience", AUDIENCE, "--jwt-team-claim", "team", "--jwt-requests-per-minute", "3"]
    flags += ["--jwt-tokens-per-minute", "400", "--jwt-budget-tokens", "5000", "--jwt-budget-period", "day"]
    access = read_access(parser().parse_args([*flags, "--jwt-max-streams", "6", "--jwt-default-models", "a/*"]))
    assert access.tokens
    caller = await access.tokens.caller(token(team="research", topmast_models=None))
    assert caller == Caller("jwt:alice", ("a/*",), Limits(3, 400, 5000, "day", 6), team=Team("research"))
