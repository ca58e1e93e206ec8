"""What can be reached, and what can be read: no way to an admin route, and no key or prompt in a log or a metric."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.lab.engines import Engine, free_address
from gateway.lab.stage import KEY, Gateway, Stage, soon

CHAT = "/v1/chat/completions"
AUTHORIZED = f"host: x\r\nauthorization: Bearer {KEY}\r\n"


async def raw(gateway: Gateway, request: bytes) -> bytes:
    """All that comes back for these bytes; the gateway closes, or is silent for a while."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while data := await asyncio.wait_for(reader.read(65_536), 30 if not answer else 0.5):
            answer += data
    writer.close()
    return answer


@pytest.fixture
async def asked_of_pod(stage: Stage, gateway: Gateway, namespace: str) -> AsyncIterator[list[bytes]]:
    """Request lines that reach either port of a ready pod, but for the gateway's own look at its metrics."""
    lines: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        line = head.splitlines(keepends=True)[0]
        # Everything that is carried for a caller has an id; nobody asked for what has none.
        if line != b"get /metrics http/1.1\r\n" or b"\r\nx-request-id:" in head:
            lines.append(line)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecret")
        writer.close()

    ip = free_address()
    servers = [await asyncio.start_server(note, ip, port) for port in (8000, 8001)]
    stage.model(namespace, "surface")
    pod = stage.pod(namespace, "surface", ip)
    gateway.sees(f"{namespace}/surface", 1)
    yield lines
    pod.delete()
    for server in servers:
        server.close()


BEFORE = ("/", "//", "/./", "/v1/", "/v1/models/../../", "/v1/models/%2e%2e/%2e%2e/", "/v1/chat/completions/../../")
TARGETS = [
    f"{prefix}{route}"
    for route in ("metrics", "healthz", "readyz", "usage", "state", "drain", "sleep", "wake")
    for prefix in BEFORE
    if f"{prefix}{route}" != "/v1/usage"  # which is a route: what the caller itself has used
] + [
    "/%6detrics", "/metrics/", "/METRICS", "/metrics?x=/v1/models", "/metrics%00", "/metrics;/v1/models",
    "/v1%2f..%2fmetrics",
    "/v1/models/..%2f..%2fmetrics", "/v1/chat/completions%00", "/v1/chat/completions/", "//v1/chat/completions",
    "/v1/./chat/completions", "/v1/chat/completions%2f..%2f..%2fdrain", "/v1//models", "/V1/models", "*",
    "http://127.0.0.1:8081/metrics", "http://x@127.0.0.1/metrics",
]  # fmt: skip


async def test_no_target_leads_to_an_admin_route_of_the_gateway_or_of_an_engine(
    gateway: Gateway, namespace: str, asked_of_pod: list[bytes]
) -> None:
    body = json.dumps({"model": f"{namespace}/surface"}).encode()
    admin = httpx.URL(gateway.admin_url)
    for target in [*TARGETS, f"http://{admin.host}:{admin.port}/metrics"]:
        for method in ("GET", "POST", "PUT", "TRACE"):
            head = f"{method} {target} HTTP/1.1\r\n{AUTHORIZED}content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            answer = await raw(gateway, head.encode() + body)
            assert re.match(rb"HTTP/1.1 (400|404|405) ", answer), (method, target, answer[:200])
            assert b"topmast_gateway_" not in answer and b"secret" not in answer
    assert asked_of_pod == []
    async with httpx.AsyncClient(trust_env=False) as client:  # the guard: what should arrive does, as one route only
        answer = await client.post(gateway.url + CHAT, content=body, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.text == "secret" and asked_of_pod == [b"post /v1/chat/completions http/1.1\r\n"]


async def test_the_admin_port_names_no_caller_to_who_has_no_token(gateway: Gateway, http: httpx.AsyncClient) -> None:
    for headers in ({}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": "Bearer x"}):
        for route in ("usage", "queue"):
            answer = await http.get(f"{gateway.admin_url}/{route}", headers={"Authorization": "", **headers})
            assert answer.status_code == 404 and "--shared-token-file" in answer.text


WRONG_KEY = "tm-canary-of-a-wrong-key-0123456789abcdef"
PROMPT = "canary-of-a-prompt"


def accesses(log: Path) -> str:
    return log.read_text()


async def test_neither_key_nor_prompt_is_in_a_log_line_or_a_metric_whatever_happens(
    stage: Stage, gateway: Gateway, access_log: Path, namespace: str, http: httpx.AsyncClient
) -> None:
    ask: dict[str, Any] = {"model": "leaky", "messages": [{"role": "user", "content": PROMPT}], "user": PROMPT}
    lines_before = len(gateway.lines)
    async with Engine() as engine:
        stage.model(namespace, "leaky")
        stage.pod(namespace, "leaky", engine.ip)
        gateway.sees(f"{namespace}/leaky", 1)
        for mode in ("stream", "full", "bad_request", "tear", "reset"):
            engine.mode = mode
            for stream in (True, False):
                await http.post(CHAT, json={**ask, "stream": stream})
        engine.mode, engine.pause_s = "stream", 0.2
        async with http.stream("POST", CHAT, json={**ask, "stream": True}) as answer:
            await anext(answer.aiter_bytes())
        await soon(lambda: engine.running == 0, "the client left")
    for body in (PROMPT, f'{{"model": "{PROMPT}"', f'{{"model": "{PROMPT}"}}', f'{{"{PROMPT}": 1}}', PROMPT * 600_000):
        assert (await http.post(CHAT, content=body)).status_code in (400, 404, 413)
    for headers in (
        {"authorization": f"Bearer {WRONG_KEY}"},
        {"authorization": f"Basic {WRONG_KEY}"},
        {"x-api-key": KEY},
    ):
        assert (await http.post(CHAT, json=ask, headers={"authorization": "", **headers})).status_code == 401
    await http.get(f"/{PROMPT}", headers={"x-request-id": f"{PROMPT} not plain"})
    await http.get(f"/v1/models/{PROMPT}")
    for rubbish in (
        f"{PROMPT}\r\n\r\n",
        f"GET /{PROMPT} HTTP/1.1\r\nx: {WRONG_KEY}\x00\r\n\r\n",
        f"GET / HTTP/1.1\r\n{WRONG_KEY}: {KEY}\r\n\r\n",
    ):
        assert (await raw(gateway, rubbish.encode())).startswith(b"HTTP/1.1 400 ")
    written = "\n".join(gateway.lines) + (await http.get(f"{gateway.admin_url}/metrics")).text
    assert "/leaky" in written
    await soon(lambda: accesses(access_log).count(f"/{PROMPT}") == 2, "the access log is written to its last line")
    written += accesses(access_log).replace(f"/{PROMPT}", "")  # a path is the caller's own choice, and is logged
    await soon(lambda: len(gateway.lines) > lines_before, "it did log: pods that failed")
    for secret in (PROMPT, KEY, WRONG_KEY, "Bearer"):
        assert secret not in written


async def test_rubbish_and_wrong_keys_cannot_fill_the_log(gateway: Gateway) -> None:
    def lines() -> list[str]:
        """Without those on pods of tests before this one, whose engines are gone."""
        return [line for line in gateway.lines if "does not report its load" not in line]

    before, wrong = lines(), f"host: x\r\nauthorization: Bearer {WRONG_KEY}\r\n"
    for _ in range(20):
        await raw(gateway, b"rubbish\r\n\r\n")
        await raw(gateway, f"GET / HTTP/1.1\r\n{wrong}connection: close\r\n\r\n".encode())
        await raw(gateway, f"GET / HTTP/1.1\r\n{AUTHORIZED}connection: upgrade\r\nupgrade: websocket\r\n\r\n".encode())
    assert lines() == before
