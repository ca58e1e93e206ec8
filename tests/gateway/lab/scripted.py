"""Engines that follow a script, which comes in the request, and write down which tokens they have reported."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gateway.lab.engines import Engine


@dataclass(frozen=True)
class Script:
    """An answer of `lines`, each with so many tokens; the last one is the journal's end.

    Before a line: the try of this number is cut off there, or the engine holds until it is left, or it fails.
    `status` is that of an answer without a journal.
    """

    prompt: int
    lines: tuple[int, ...]
    cuts: tuple[int, ...] = ()
    hold: int | None = None
    fail: int | None = None
    status: int = 200

    @property
    def cached(self) -> int:
        """Of the prompt."""
        return self.prompt // 2

    def tokens(self, lines: int | None = None) -> int:
        """Of the answer's first lines, or of all."""
        return sum(self.lines[:lines])


@dataclass
class Reported:
    """One request: how many tokens of its answer some engine has started to report, and which engines worked on it."""

    tokens: int = 0
    engines: list[str] = field(default_factory=list)


class ScriptedEngine(Engine):
    """`reported` is shared by the engines of a model; by request id."""

    def __init__(self, reported: dict[str, Reported]) -> None:
        super().__init__(pause_s=0.001)
        self._reported = reported

    async def _misbehave(self, request: web.Request) -> web.StreamResponse:
        body = self.bodies[-1]
        script = Script(**body["script"])
        reported = self._reported.setdefault(request.headers["x-request-id"], Reported())
        reported.engines.append(self.ip)
        if script.status != 200:
            return web.json_response({"error": {"message": "as the script says", "code": "x"}}, status=script.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Topmast-Journal": "1"})
        await response.prepare(request)
        brought = body.get("continuation", {"token_ids": []})["token_ids"]
        assert brought == list(range(len(brought)))
        await response.write(b": prompt %d 1700000000\n\n" % script.prompt)
        cut = script.cuts[len(reported.engines) - 1] if len(reported.engines) <= len(script.cuts) else None
        for number, tokens in enumerate(script.lines):
            before = script.tokens(number)
            if before < len(brought):
                continue
            if number == cut:
                return await _cut_off(request, response)
            if number == script.hold:
                await asyncio.sleep(3600)
            if number == script.fail:
                error = {"message": "as the script says", "type": "server_error", "code": "generation_failed"}
                await response.write(b": error 500 0\n\n" + _data({"error": error}))
                return response
            reported.tokens = max(reported.tokens, before + tokens)
            await response.write(_line(script, number, stream=body["stream"]))
            await asyncio.sleep(self.pause_s)
        return response


def _line(script: Script, number: int, *, stream: bool) -> bytes:
    before, tokens = script.tokens(number), script.lines[number]
    ids = " ".join(map(str, range(before, before + tokens))).encode()
    data = _data({"tokens": tokens}) if stream else b""
    cached = b"" if before else b": cached %d\n\n" % script.cached
    if number < len(script.lines) - 1:
        return data + cached + b": + %b\n\n" % ids
    usage = {"prompt_tokens": script.prompt, "completion_tokens": script.tokens()}
    last = _data({"tokens": 0 if stream else script.tokens(), "usage": usage})
    return data + last + cached + b": end %b\n\ndata: [DONE]\n\n" % ids


async def _cut_off(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Text whose tokens were not reported, half of an event, and no more."""
    await response.write(_data({"tokens": 100}) + b'data: {"tok')
    await asyncio.sleep(0.01)
    assert request.transport is not None
    request.transport.abort()
    return response


def _data(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"
