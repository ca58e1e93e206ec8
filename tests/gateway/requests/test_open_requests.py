"""A key that is taken away takes its open streams with it, and nobody else's."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from gateway.lab.engines import Engine
from gateway.lab.stage import KEY, SECRET, SYSTEM, Gateway, Stage, eventually, hashed, soon


@pytest.fixture
def known(stage: Stage, gateway: Gateway) -> Callable[[dict[str, str | None]], None]:
    """Change entries of the Secret; returns when this gateway knows so many keys more or fewer."""

    def change(entries: dict[str, str | None]) -> None:
        patch = {name: text for name, text in entries.items() if text is not None}
        gone = [name for name, text in entries.items() if text is None]
        before = gateway.metric("topmast_gateway_api_keys")
        body = {"stringData": patch, "data": dict.fromkeys(gone)}
        stage.core.patch_namespaced_secret(SECRET, SYSTEM, body)
        wanted = before + len(patch) - len(gone)
        eventually(lambda: gateway.metric("topmast_gateway_api_keys") == wanted, "the keys are known")

    return change


@pytest.mark.parametrize("how", ["removed", "replaced by another key"])
async def test_a_revoked_key_s_streams_end_in_an_error_and_others_go_on(
    stage: Stage, gateway: Gateway, namespace: str, known: Callable[[dict[str, str | None]], None], how: str
) -> None:
    known({"mallory": hashed("tm-mallory")})
    async with Engine(chunks=100_000, pause_s=0.02) as engine, httpx.AsyncClient(timeout=60) as client:
        stage.model(namespace, "m")
        stage.pod(namespace, "m", engine.ip)
        gateway.sees(f"{namespace}/m", 1)
        body = {"model": f"{namespace}/m", "stream": True}

        def streamed(key: str):  # type: ignore[no-untyped-def]
            headers = {"Authorization": f"Bearer {key}"}
            return client.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, headers=headers)

        async with streamed("tm-mallory") as theirs, streamed(KEY) as others:
            lines, other_lines = theirs.aiter_lines(), others.aiter_lines()
            assert (await anext(lines)).startswith("data: ") and (await anext(other_lines)).startswith("data: ")
            if how == "removed":
                known({"mallory": None})
            else:
                stage.core.patch_namespaced_secret(SECRET, SYSTEM, {"stringData": {"mallory": hashed("tm-new")}})
            last = [line async for line in lines if line][-1]
            error = json.loads(last.removeprefix("data: "))["error"]
            assert error["code"] == "invalid_api_key" and "revoked" in error["message"]
            for _ in range(20):
                await anext(other_lines)
        await soon(lambda: len(engine.abandoned_at) == 2, "the engine hears of both")
    if how != "removed":
        known({"mallory": None})
