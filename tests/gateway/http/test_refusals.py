"""Who gets in, and what a wrong request gets: OpenAI's envelope, the right code, a sentence with a remedy."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from gateway.lab.engines import Engine
from gateway.lab.stage import KEY, Gateway, Stage, hashed, soon

CHAT = "/v1/chat/completions"
Ask = dict[str, Any]


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json" and response.headers["x-request-id"]
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/models", "/v1/models/x", "/", "/metrics"])
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer tm-wrong", f"Basic {KEY}", f"Bearer {hashed(KEY)}"]
)
def test_without_a_valid_key_there_is_only_401(gateway: Gateway, path: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for method in ("GET", "POST"):
        response = httpx.request(method, gateway.url + path, headers=headers)
        assert response.status_code == 401 and error_of(response)["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"


def test_identity_headers_open_nothing(gateway: Gateway) -> None:
    headers = {"X-Topmast-Key": "tests", "X-Forwarded-User": "admin", "Api-Key": KEY, "Cookie": f"key={KEY}"}
    assert httpx.get(f"{gateway.url}/v1/models", headers=headers).status_code == 401


async def test_an_unknown_model_is_a_404_that_lists_the_known_ones(
    stage: Stage, gateway: Gateway, namespace: str, http: httpx.AsyncClient
) -> None:
    stage.model(namespace, "known-one")
    gateway.sees(f"{namespace}/known-one", 0)
    response = await http.post(CHAT, json={"model": "unknown-one"})
    assert response.status_code == 404
    error = error_of(response)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "unknown-one" in error["message"] and "known-one" in error["message"]


async def test_models_lists_every_llmdeployment_by_a_name_that_works(
    stage: Stage, gateway: Gateway, http: httpx.AsyncClient
) -> None:
    one, two = stage.namespace(), stage.namespace()
    for namespace, name in ((one, "twice"), (two, "twice"), (one, "single")):
        stage.model(namespace, name)
        gateway.sees(f"{namespace}/{name}", 0)
    listed = {model["id"]: model for model in (await http.get("/v1/models")).json()["data"]}
    assert {f"{one}/twice", f"{two}/twice", "single"} <= set(listed) and "twice" not in listed
    assert listed["single"]["owned_by"] == one and listed["single"]["created"] > 1_600_000_000
    assert (await http.get("/v1/models/single")).json() == listed["single"]
    assert (await http.get(f"/v1/models/{two}/twice")).json() == listed[f"{two}/twice"]
    ambiguous = await http.post(CHAT, json={"model": "twice"})
    assert ambiguous.status_code == 404 and error_of(ambiguous)["code"] == "model_ambiguous"
    assert f"{one}/twice" in error_of(ambiguous)["message"] and f"{two}/twice" in error_of(ambiguous)["message"]
    assert (await http.get("/v1/models/nothing")).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", CHAT, 405, "method_not_allowed"), ("DELETE", "/v1/models", 405, "method_not_allowed"),
     ("POST", "/v1/embeddings", 404, "not_found"), ("GET", "/", 404, "not_found")],
)  # fmt: skip
async def test_wrong_routes_say_what_is_right(
    http: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    response = await http.request(method, path)
    assert response.status_code == status and error_of(response)["code"] == code


async def test_malformed_json_is_a_400(http: httpx.AsyncClient) -> None:
    response = await http.post(CHAT, content=b'{"model": "m"')
    assert response.status_code == 400 and error_of(response)["code"] == "invalid_json"
    compressed = await http.post(CHAT, content=b"x", headers={"Content-Encoding": "gzip"})
    assert compressed.status_code == 415


async def test_an_oversized_body_is_refused_before_it_is_there(gateway: Gateway) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 9000000\r\n\r\n".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 30)  # not a byte of the body was sent
    assert b" 413 " in head
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_sends_10_mb_without_looking_reads_the_413(http: httpx.AsyncClient, chunked: bool) -> None:
    async def pieces() -> Any:
        for _ in range(160):
            yield b"x" * 65_536

    response = await http.post(CHAT, content=pieces() if chunked else b"x" * (160 * 65_536))
    assert response.status_code == 413 and error_of(response)["code"] == "request_too_large"


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nx-long: ", b"GET /", b"GET / HTTP/1.1\r\nx: y\r\n"])
async def test_an_endless_head_is_cut_off_and_the_gateway_stays(gateway: Gateway, head: bytes) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answer = b""
    with contextlib.suppress(ConnectionError):
        for _ in range(1000):  # 64 MB, were it read
            writer.write(head + b"y" * 65_536 if head.count(b"\n") < 2 else head * 3000)
            await writer.drain()
            head = b"" if head.count(b"\n") < 2 else b"x: y\r\n" * 3
            if reader.at_eof():
                break
        else:
            pytest.fail("the gateway read a head of 64 MB")
        answer = await reader.read(12)
    assert answer in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")  # a reset may overtake the answer
    writer.close()
    assert await asyncio.to_thread(gateway.ready) == 200


async def test_a_long_header_is_a_431(gateway: Gateway, http: httpx.AsyncClient) -> None:
    response = await http.get("/v1/models", headers={"x-long": "y" * 40_000})
    assert response.status_code == 431 and response.json()["error"]["code"] == "headers_too_large"


async def test_one_request_too_many_is_asked_to_come_back(
    stage: Stage, namespace: str, new_gateway: Callable[..., Gateway]
) -> None:
    small = new_gateway("--max-streams", "2").wait_ready()
    headers = {"Authorization": f"Bearer {KEY}"}
    async with Engine("silent") as engine, httpx.AsyncClient(headers=headers, timeout=60) as http:
        stage.model(namespace, "few")
        stage.pod(namespace, "few", engine.ip)
        small.sees(f"{namespace}/few", 1)
        waiting = [asyncio.create_task(http.post(small.url + CHAT, json={"model": "few"})) for _ in range(2)]
        await soon(lambda: engine.running == 2, "both arrived")
        answers = [await http.post(small.url + CHAT, json={"model": "few"}) for _ in range(3)]
        for refused in answers:
            assert refused.status_code == 503 and error_of(refused)["code"] == "gateway_full"
            assert refused.headers["retry-after"] == "1"
        assert min(refused.elapsed.total_seconds() for refused in answers) < 1.5
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await soon(lambda: small.metric("topmast_gateway_requests_in_flight") == 0, "places are given back")


async def test_openai_raises_its_own_exceptions(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="tm-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="no-such", messages=[{"role": "user", "content": "hi"}])


def test_callers_cannot_make_new_metrics_series(gateway: Gateway) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    for number in range(5):
        httpx.post(gateway.url + CHAT, content=json.dumps({"model": f"made-up-{number}"}), headers=headers)
    text = httpx.get(f"{gateway.admin_url}/metrics").text
    assert "made-up" not in text
