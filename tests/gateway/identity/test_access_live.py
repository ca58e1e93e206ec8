"""A gateway with every way of access at once: TLS, CORS, tokens, limits on guessing, a trusted proxy."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from gateway.lab.certificates import trusting_anybody, write_pair
from gateway.lab.engines import Engine
from gateway.lab.stage import KEY, Gateway, Stage, eventually, hashed, soon
from gateway.lab.tokens import AUDIENCE, ISSUER, JWKS, token

PAGE = "https://chat.example.org"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def guarded(new_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    folder: Path = tmp_path_factory.mktemp("guarded")
    cert, key = write_pair(folder, "gateway")
    (folder / "jwks.json").write_bytes(JWKS)
    tokens = ("--jwt-jwks", str(folder / "jwks.json"), "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE)
    guessing = ("--failures-per-minute", "3", "--trusted-proxies", "127.0.0.0/8")
    gateway = new_gateway(
        "--tls-cert", str(cert), "--tls-key", str(key), "--cors-origin", PAGE, *tokens, *guessing
    )  # fmt: skip
    gateway.url = gateway.url.replace("http://", "https://")
    return gateway.wait_ready()


@pytest.fixture
async def https(guarded: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A page's client without a key."""
    async with httpx.AsyncClient(
        base_url=guarded.url, headers={"Origin": PAGE}, verify=trusting_anybody(), timeout=60, trust_env=False
    ) as client:
        yield client


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_page_with_a_token_gets_a_stream_and_sees_only_its_models(
    stage: Stage, guarded: Gateway, namespace: str, https: httpx.AsyncClient
) -> None:
    async with Engine() as engine:
        stage.model(namespace, "mine")
        stage.model(namespace, "other")
        stage.pod(namespace, "mine", engine.ip)
        guarded.sees(f"{namespace}/mine", 1)
        headers = bearing(token(topmast_models=[f"{namespace}/m*"]).decode())
        listed = (await https.get("/v1/models", headers=headers)).json()["data"]
        assert [model["id"] for model in listed] == ["mine"]
        ask = {"model": "mine", "stream": True}
        async with https.stream("POST", CHAT, json=ask, headers=headers) as answer:
            text = (await answer.aread()).decode()
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == PAGE
        assert text.endswith("data: [DONE]\n\n")
        refused = await https.post(CHAT, json={"model": "other"}, headers=headers)
        assert refused.status_code == 404 and refused.json()["error"]["code"] == "model_not_found"
        assert refused.headers["access-control-allow-origin"] == PAGE
        assert engine.asked == 1


async def test_a_preflight_needs_no_key(https: httpx.AsyncClient) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    answer = await https.options(CHAT, headers=asks)
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == PAGE


async def test_guessing_from_one_address_is_429_and_others_and_valid_keys_still_work(
    guarded: Gateway, https: httpx.AsyncClient
) -> None:
    async def status(key: str, address: str) -> int:
        return (await https.get("/v1/models", headers={**bearing(key), "X-Forwarded-For": address})).status_code

    assert await status(KEY, "203.0.113.7") == 200
    wrong = [await status(f"tm-guess-{number}", "9.9.9.9, 203.0.113.7") for number in range(5)]
    assert wrong == [401, 401, 401, 429, 429]
    assert await status(KEY, "203.0.113.7") == 200 and await status("tm-guess", "203.0.113.8") == 401
    assert await status(KEY, "203.0.113.8") == 200  # an address from which nobody guesses much
    assert guarded.metric("topmast_gateway_authentication_failures_total", reason="throttled") == 2

    def reported() -> list[str]:
        return [line for line in guarded.lines if "failed authentications" in line]

    await soon(lambda: bool(reported()), "the address is named")
    assert len(reported()) == 1 and reported()[0].endswith("203.0.113.7")


async def test_a_key_with_terms_is_held_to_them_within_two_seconds(
    stage: Stage, guarded: Gateway, namespace: str, https: httpx.AsyncClient
) -> None:
    stage.model(namespace, "theirs")
    guarded.sees(f"{namespace}/theirs", 0)

    def change(**terms: object) -> None:
        data = {"limited": json.dumps({"hash": hashed("tm-limited"), **terms})}
        stage.core.patch_namespaced_secret("topmast-api-keys", "topmast-system", {"stringData": data})

    def code() -> str:
        url = f"{guarded.url}/v1/models/{namespace}/theirs"
        answer = httpx.get(url, headers=bearing("tm-limited"), verify=trusting_anybody())
        return "ok" if answer.status_code == 200 else str(answer.json()["error"]["code"])

    change(models=["elsewhere/*"])
    eventually(lambda: code() == "model_not_allowed", "not its model", 2)
    change(models=[f"{namespace}/*"])
    eventually(lambda: code() == "ok", "its model", 2)
    change(expires="2020-01-01T00:00:00Z")
    eventually(lambda: code() == "expired_api_key", "expired", 2)
    change(model=[f"{namespace}/*"])
    eventually(lambda: any("'limited'" in line and "opens nothing" in line for line in guarded.lines), "named", 2)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--tls-cert", "missing.crt"), "--tls-key"),
        (("--tls-cert", "missing.crt", "--tls-key", "missing.key"), "missing.crt"),
        (("--jwt-jwks", "missing.json"), "--jwt-issuer"),
        (("--jwt-jwks", "missing.json", "--jwt-issuer", "i", "--jwt-audience", "a"), "missing.json"),
        (("--jwt-jwks", "http://issuer.example/", "--jwt-issuer", "i", "--jwt-audience", "a"), "https"),
        (("--cors-origin", "example.org"), "https://chat.example.org"),
        (("--trusted-proxies", "all"), "10.0.0.0/8"),
        (("--jwt-default-models", "chat"), "team-a/*"),
        (("--peers", "gateways:8081"), "--shared-token-file"),
    ],
)
def test_flags_that_do_not_fit_end_with_a_sentence(
    flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from topmast_gateway import cli

    monkeypatch.setattr(
        "sys.argv", ["topmast gateway", "--keys-secret", "k", "--port", "0", "--admin-port", "0", *flags]
    )
    try:
        code: object = cli.main()
    except SystemExit as end:
        code = end.code
    assert code == 2 and says in capsys.readouterr().err
