"""Engines that keep a journal, as ours do, and lose the thread on demand. Their answers are numbers: "0 1 2 3 "."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from gateway.lab.engines import Engine

FIRST_ID = 1000  # the token id of the number 0
METRICS = "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\ntopmast_max_num_seqs 32\n"


def numbers(count: int) -> str:
    """The whole answer."""
    return "".join(f"{number} " for number in range(count))


class JournalEngine(Engine):
    """`mode` is what happens after `made` tokens of its own; "stream" is nothing. `chunks` is the answer's length."""

    def __init__(self, mode: str = "stream", *, chunks: int = 6, made: int = 2, pause_s: float = 0.0) -> None:
        super().__init__(mode, chunks=chunks, pause_s=pause_s, metrics=METRICS)
        self.made = made

    @property
    def continued_from(self) -> list[int]:
        """How many tokens each request brought along."""
        return [len(body.get("continuation", {}).get("token_ids", ())) for body in self.bodies]

    async def _misbehave(self, request: web.Request) -> web.StreamResponse:
        if self.mode in ("full", "not_ready", "draining", "reset", "silent"):
            return await super()._misbehave(request)
        body = self.bodies[-1]
        assert self.headers[-1]["x-topmast-journal"] == "1"
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Topmast-Journal": "1"})
        await response.prepare(request)
        before = body.get("continuation", {"token_ids": [], "created": 1_700_000_000})
        assert before["token_ids"] == [FIRST_ID + number for number in range(len(before["token_ids"]))]
        await response.write(b": prompt 5 %d\n\n" % before["created"])
        for number in range(len(before["token_ids"]), self.chunks):
            if number - len(before["token_ids"]) == self.made and await self._break(request, response, number):
                return response
            await response.write(self._token(number, body) + b": + %d\n\n" % (FIRST_ID + number))
            await asyncio.sleep(self.pause_s)
        last = _data({"usage": self.chunks}) if body.get("stream") else _data({"text": numbers(self.chunks)})
        await response.write(last + b": end \n\ndata: [DONE]\n\n")
        return response

    def _token(self, number: int, body: dict[str, Any]) -> bytes:
        return _data({"text": f"{number} "}) if body.get("stream") else b""

    async def _break(self, request: web.Request, response: web.StreamResponse, number: int) -> bool:
        """Whether that was the end of this try."""
        assert request.transport is not None
        match self.mode:
            case "tear":  # text without its tokens, and half of an event
                await response.write(_data({"text": f"{number} "}) + b'data: {"te')
                await asyncio.sleep(0.02)
                request.transport.abort()
            case "stall":
                await asyncio.sleep(3600)
            case "busy":
                for _ in range(24):  # longer than the silence that is taken for death, and never as long
                    await asyncio.sleep(0.1)
                    await response.write(b": alive\n\n")
                return False
            case "engine_lost" | "draining_late" | "generation_failed" | "deadline_exceeded":
                code = self.mode.removesuffix("_late")
                error = {"message": f"{code}, says the engine", "type": "server_error", "param": None, "code": code}
                status = 504 if code == "deadline_exceeded" else 500
                await response.write(b": error %d 0\n\n" % status + _data({"error": error}))
            case "garbage":
                await response.write(b": + SECRET-WORD\n\n")
                await asyncio.sleep(3600)
            case _:
                return False
        return True


def _data(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"
