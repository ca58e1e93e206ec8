"""Tokens for engines: who holds the private key opens the engine of one model for minutes, and nobody else does."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from engine_keys import new_key, new_pem, replace, write_access
from topmast_access.rules import Rules, parse_rules
from topmast_access.signing import EngineTokens, SigningKey
from topmast_access.terms import GATEWAY, LIFETIME_S, OPERATOR
from topmast_access.verifying import TokenRefused, Verifier, may_scrape
from topmast_access.watched_file import WatchedFile

AUDIENCE = "team-a/smollm2"
KEY = new_key()
PEM = new_pem()


def rules_of(*keys: SigningKey, **metrics: Any) -> Rules:
    return parse_rules(json.dumps({"keys": [dict(key.public_jwk) for key in keys], "metrics": metrics}).encode())


RULES = rules_of(KEY)


def forged(header: dict[str, Any] | None = None, *, key: Any = None, algorithm: str = "EdDSA", **claims: Any) -> str:
    """A token with these changes; a claim that is None is left out."""
    now = int(time.time())
    said = {"aud": AUDIENCE, "iss": GATEWAY, "iat": now, "exp": now + 300, **claims}
    said = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(said, key or KEY._private, algorithm, {"kid": KEY.kid, **(header or {})})


def unsigned() -> str:
    """A good token's claims under the algorithm "none"."""
    header = json.dumps({"alg": "none", "kid": KEY.kid}).encode()
    return f"{base64.urlsafe_b64encode(header).decode().rstrip('=')}.{forged().split('.')[1]}."


@pytest.mark.parametrize("issuer", [GATEWAY, OPERATOR])
def test_a_signed_token_opens_the_engine_of_its_model(issuer: str) -> None:
    verifier = Verifier(AUDIENCE)
    token = KEY.sign(AUDIENCE, issuer, time.time())
    verifier.check(token, RULES)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == LIFETIME_S
    assert set(claims) == {"aud", "iss", "iat", "exp"}


now = int(time.time())
OTHER = new_key()
WRONG: dict[str, tuple[str | None, str]] = {
    "none": (None, "missing"),
    "no token": ("hello", "malformed"),
    "no letters": ("\xff\xfe", "malformed"),
    "a long one": ("x" * 5000, "malformed"),
    "an unknown key": (OTHER.sign(AUDIENCE, GATEWAY, now), "unknown_key"),
    "a stranger's signature under a known key's name": (forged(key=OTHER._private), "signature"),
    "no key's name": (forged({"kid": ""}), "unknown_key"),
    "another model": (forged(aud="team-a/other"), "audience"),
    "a list of models": (forged(aud=[AUDIENCE, "team-b/x"]), "audience"),
    "no model": (forged(aud=None), "malformed"),
    "another issuer": (forged(iss="somebody"), "issuer"),
    "no issuer": (forged(iss=None), "malformed"),
    "an old one": (forged(iat=now - 400, exp=now - 60), "expired"),
    "one of the future": (forged(iat=now + 3600, exp=now + 3900), "not_yet_valid"),
    "one for ever": (forged(exp=now + 10**6), "lifetime"),
    "one without an end": (forged(exp=None), "malformed"),
    "one without a beginning": (forged(iat=None), "malformed"),
    "another algorithm": (forged(key=KEY.public_jwk["x"] * 2, algorithm="HS256"), "malformed"),
    "no algorithm": (unsigned(), "malformed"),
}


@pytest.mark.parametrize("what", WRONG)
def test_everything_else_is_refused_with_its_reason(what: str) -> None:
    token, reason = WRONG[what]
    with pytest.raises(TokenRefused) as caught:
        Verifier(AUDIENCE).check(token, RULES)
    assert caught.value.reason == reason
    assert len(str(caught.value)) > 15


@pytest.mark.parametrize("off_s", [-LIFETIME_S - 20, 20])
def test_clocks_may_differ_by_half_a_minute(off_s: float) -> None:
    Verifier(AUDIENCE).check(KEY.sign(AUDIENCE, GATEWAY, time.time() + off_s), RULES)


@given(st.text() | st.lists(st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode())).map(".".join))
def test_nothing_that_is_shown_is_an_error(token: str) -> None:
    with pytest.raises(TokenRefused):
        Verifier(AUDIENCE).check(token, RULES)


@given(
    st.sampled_from(["aud", "iss", "iat", "exp"]),
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=2)),
)
def test_signed_nonsense_is_refused_as_well(name: str, value: Any) -> None:
    try:
        token = forged(**{name: value})
    except TypeError:  # PyJWT does not sign everything
        return
    with pytest.raises(TokenRefused):
        Verifier(AUDIENCE).check(token, RULES)


def test_a_signature_is_checked_once_for_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    decode = jwt.decode
    monkeypatch.setattr(
        jwt, "decode", lambda token, *rest, **more: checked.append(token) or decode(token, *rest, **more)
    )
    verifier, token = Verifier(AUDIENCE), KEY.sign(AUDIENCE, GATEWAY, time.time())
    for _ in range(5):
        verifier.check(token, RULES)
    assert checked == [token]
    for number in range(1000):  # many tokens cost no memory
        verifier.check(forged(n=number), RULES)
    assert len(verifier._valid_until) <= 256
    verifier.check(token, rules_of(KEY, OTHER))
    assert checked.count(token) == 2
    with pytest.raises(TokenRefused, match="not in this engine's access file"):
        verifier.check(token, rules_of(OTHER))  # remembered, and its key is gone


def test_an_expired_token_is_not_remembered_beyond_its_time() -> None:
    verifier, token = Verifier(AUDIENCE), KEY.sign(AUDIENCE, GATEWAY, time.time())
    verifier.check(token, RULES)
    (digest,) = verifier._valid_until
    assert verifier._valid_until[digest] == jwt.decode(token, options={"verify_signature": False})["exp"]
    assert digest == hashlib.sha256(token.encode()).digest()


def test_metrics_are_read_by_everybody_or_by_who_is_listed_or_by_nobody() -> None:
    listed = [hashlib.sha256(token.encode()).hexdigest() for token in ("scrape-1", "scrape-2")]
    closed, with_tokens, opened = rules_of(KEY), rules_of(KEY, token_sha256=listed), rules_of(KEY, open=True)
    shown = (None, "", "scrape-1", "scrape-2", "scrape-3")
    assert [may_scrape(token, closed) for token in shown] == [False] * 5
    assert [may_scrape(token, with_tokens) for token in shown] == [False, False, True, True, False]
    assert [may_scrape(token, opened) for token in shown] == [True] * 5
    assert not may_scrape("scrape-1", None)


JWK = dict(KEY.public_jwk)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"{", "not JSON"),
        (b"[]", "'keys' is missing"),
        (b"{}", "'keys' is missing"),
        ({"keys": {}}, "'keys' is missing or no list"),
        ({"keys": [JWK] * 9}, "at most 8"),
        ({"keys": [JWK, JWK]}, "two keys with the id"),
        ({"keys": [{**JWK, "d": "x"}]}, "private key"),
        ({"keys": [{**JWK, "kid": 3}]}, "'kid'"),
        ({"keys": [{**JWK, "x": "AAAA"}]}, "no Ed25519 key"),
        ({"keys": [{**JWK, "x": "é"}]}, "no Ed25519 key"),
        ({"keys": [], "metrics": {"open": "yes"}}, "'open'"),
        ({"keys": [], "metrics": {"token_sha256": ["abc"]}}, "64 lower-case hex digits"),
        ({"keys": [], "metrics": []}, "'metrics'"),
    ],
)
def test_an_access_file_that_is_wrong_is_told(content: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_rules(content if isinstance(content, bytes) else json.dumps(content).encode())


def test_keys_of_a_later_kind_are_left_out() -> None:
    later = {"kty": "AKP", "kid": "later", "pub": "x"}
    rules = parse_rules(json.dumps({"keys": [later, JWK], "more": 1}).encode())
    assert set(rules.keys) == {KEY.kid}
    assert not rules.metrics_open and rules.metrics_sha256 == ()


def test_the_id_of_a_key_is_its_rfc_7638_thumbprint() -> None:
    # The example of RFC 8037, appendix A.3.
    pem = (
        b"-----BEGIN PRIVATE KEY-----\n"
        b"MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n"
    )
    key = SigningKey(pem)
    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert key.public_jwk["x"] == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"


def rsa_pem() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("make", [lambda: b"", lambda: b"secret words", rsa_pem])
def test_a_signing_key_of_another_kind_is_told_without_its_words(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(make())
    with pytest.raises(ValueError, match="openssl genpkey -algorithm ed25519") as caught:
        EngineTokens(path, GATEWAY)
    assert "secret" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        EngineTokens(tmp_path / "none", GATEWAY)


def test_without_a_signing_key_nothing_is_sent() -> None:
    assert EngineTokens().header(AUDIENCE) == {}


def test_a_token_is_used_for_half_of_its_life_and_is_its_models_own(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(PEM)
    clock = [time.time()]
    tokens = EngineTokens(path, GATEWAY, clock=lambda: clock[0])
    first = tokens.header(AUDIENCE)
    assert list(first) == ["authorization"] and tokens.header("b/c") != first
    clock[0] += LIFETIME_S / 2 - 1
    assert tokens.header(AUDIENCE) is first
    clock[0] += 1
    second = tokens.header(AUDIENCE)
    assert second != first
    clock[0] -= 3600  # somebody sets the clock
    third = tokens.header(AUDIENCE)
    assert third != second
    clock[0] += 3600
    for number in range(100):
        tokens.header(f"ns/{number}")
    assert len(tokens._signed) == 101  # what has expired is forgotten
    shown = EngineTokens(path, GATEWAY).header("ns/99")["authorization"]
    Verifier("ns/99").check(shown.removeprefix("Bearer "), rules_of(SigningKey(PEM)))


def test_a_new_signing_key_signs_from_the_next_second_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(PEM)
    tokens = EngineTokens(path, GATEWAY)
    first = tokens.header(AUDIENCE)
    new = new_pem()
    for content in (b"broken", new):
        replace(path, content)
        monkeypatch.setattr(tokens._file, "_looked_at", float("-inf"))
        assert (tokens.header(AUDIENCE) is first) == (content == b"broken")
    shown = tokens.header(AUDIENCE)["authorization"].removeprefix("Bearer ")
    Verifier(AUDIENCE).check(shown, rules_of(SigningKey(new)))


def test_a_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    path, clock, said = tmp_path / "file", [0.0], []
    reads: list[bytes] = []

    def parse(raw: bytes) -> bytes:
        reads.append(raw)
        if raw.startswith(b"bad"):
            raise ValueError("bad content")
        return raw

    file = WatchedFile(path, parse, said.append, without="nobody is let in", clock=lambda: clock[0])

    def later() -> bytes | None:
        clock[0] += 1
        return file.now()

    assert later() is None and later() is None
    assert said == [f"cannot use {path}, nobody is let in: No such file or directory"]
    replace(path, b"one")
    assert file.now() is None  # looked a moment ago
    assert later() == b"one" and later() == b"one" and reads == [b"one"]
    replace(path, b"bad")
    assert later() == b"one" and later() == b"one" and reads == [b"one", b"bad"]
    assert said[1:] == [f"cannot use {path}, what it held before stays in force: bad content"]
    path.unlink()
    assert later() == b"one" and len(said) == 3
    replace(path, b"two")
    assert later() == b"two"
    replace(path, b"bad")
    assert later() == b"two" and len(said) == 4  # said again, because it was well in between


def test_mounted_keys_are_taken_over(tmp_path: Path) -> None:
    """A ConfigMap's file is a link into a folder that is replaced."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    write_access(tmp_path / "old" / "access.json", KEY)
    write_access(tmp_path / "new" / "access.json", OTHER)
    (tmp_path / "..data").symlink_to("old")
    (tmp_path / "access.json").symlink_to("..data/access.json")
    clock = [0.0]
    file = WatchedFile(tmp_path / "access.json", parse_rules, pytest.fail, clock=lambda: clock[0])
    assert set(file.read().keys) == {KEY.kid}
    (tmp_path / "..data_tmp").symlink_to("new")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    clock[0] += 1
    rules = file.now()
    assert rules is not None and set(rules.keys) == {OTHER.kid}


def test_who_closes_no_doors_loads_no_cryptography() -> None:
    code = (
        "import sys, topmast_server.serve, topmast_access.signing, topmast_access.verifying\n"
        "topmast_access.signing.EngineTokens().header('a/b')\n"
        "print([name for name in ('jwt', 'cryptography') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"
