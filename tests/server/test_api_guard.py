"""The guard before both ports: who is let through, what the others are told, and that their bodies are not read."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from engine_keys import new_key, write_access
from topmast_access.terms import GATEWAY, OPERATOR
from topmast_server.api.guard import Guard

AUDIENCE = "team-a/smollm2"
KEY = new_key()
URL = "http://engine"


class Behind:
    """The application behind the guard; it remembers who came through, and whether a body was read."""

    def __init__(self, file: Path) -> None:
        self.refused: list[str] = []
        self.complaints: list[str] = []
        self.reached: list[str] = []
        self.read = 0
        self.app = Guard(file, AUDIENCE, self.refused.append, self.complaints.append).over(self._answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted() -> Message:
            self.read += 1
            return await receive()

        scope["state"] = self.state = {}
        await self.app(scope, counted, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached.append(f"{scope['method']} {scope['path']}")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    def client(self, token: str | None = None) -> httpx.AsyncClient:
        headers = {} if token is None else {"authorization": token}
        return httpx.AsyncClient(transport=httpx.ASGITransport(self), base_url=URL, headers=headers)


def bearer(issuer: str = GATEWAY) -> str:
    return f"Bearer {KEY.sign(AUDIENCE, issuer, time.time())}"


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Behind]:
    listed = hashlib.sha256(b"scrape").hexdigest()
    yield Behind(write_access(tmp_path / "access.json", KEY, token_sha256=[listed]))


@pytest.mark.parametrize("issuer", [GATEWAY, OPERATOR])
async def test_gateway_and_operator_are_let_through(behind: Behind, issuer: str) -> None:
    async with behind.client(bearer(issuer)) as client:
        for method, path in (
            ("POST", "/v1/chat/completions"),
            ("GET", "/state"),
            ("POST", "/drain"),
            ("GET", "/metrics"),
        ):
            assert (await client.request(method, path)).status_code == 200
    assert behind.refused == [] and len(behind.reached) == 4


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [(None, "missing"), ("Basic eDp5", "missing"), ("Bearer ", "missing"), ("Bearer x", "malformed")],
)
async def test_others_are_told_in_openais_words_and_their_body_is_not_read(
    behind: Behind, authorization: str | None, reason: str
) -> None:
    async with behind.client(authorization) as client:
        answer = await client.post("/v1/chat/completions", content=b"x" * 100_000)
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("invalid_engine_token", "invalid_request_error")
    assert "gateway" in error["message"]
    assert behind.refused == [reason] and behind.reached == [] and behind.read == 0
    assert behind.state["outcome"] == f"refused:{reason}"


@pytest.mark.parametrize(
    "path", ["/", "/v1/models", "/state", "/drain", "/metrics", "/health/", "/ready/x", "/HEALTH", "//health", "/docs"]
)
async def test_every_path_but_the_probes_is_closed(behind: Behind, path: str) -> None:
    async with behind.client() as client:
        for method in ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE"):
            assert (await client.request(method, URL + path)).status_code == 401, method
    assert behind.reached == []


async def test_probes_are_open_for_reading_alone(behind: Behind) -> None:
    async with behind.client() as client:
        for path in ("/health", "/ready"):
            assert (await client.get(path)).status_code == (await client.head(path)).status_code == 200
            assert (await client.post(path)).status_code == 401
    assert behind.reached == ["GET /health", "HEAD /health", "GET /ready", "HEAD /ready"]


async def test_a_scrape_token_opens_the_metrics_and_nothing_else(behind: Behind) -> None:
    async with behind.client("Bearer scrape") as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/state")).status_code == (await client.post("/metrics")).status_code == 401
    async with behind.client("Bearer other") as client:
        assert (await client.get("/metrics")).status_code == 401


async def test_metrics_may_be_open_to_everybody(tmp_path: Path) -> None:
    behind = Behind(write_access(tmp_path / "access.json", KEY, open=True))
    async with behind.client() as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/state")).status_code == 401


@pytest.mark.parametrize("content", [None, b"", b"{}", json.dumps({"keys": []}).encode()])
async def test_without_keys_nobody_is_let_in_but_the_kubelet(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "access.json"
    if content is not None:
        path.write_bytes(content)
    behind = Behind(path)
    if content != b'{"keys": []}':
        assert len(behind.complaints) == 1 and "nobody is let in" in behind.complaints[0]
    async with behind.client(bearer()) as client:
        answers: list[Any] = [await client.get(path) for path in ("/state", "/metrics", "/v1/models")]
        assert [answer.status_code for answer in answers] == [401] * 3
        assert (await client.get("/ready")).status_code == 200
    assert len(behind.complaints) <= 1
    assert set(behind.refused) == {"unknown_key" if content == b'{"keys": []}' else "no_keys"}
