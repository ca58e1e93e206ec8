"""Asks as clients do: with a bare HTTP client that sees every byte, or with OpenAI's SDK, which must be happy, too."""

from __future__ import annotations

import time
import uuid
from types import TracebackType
from typing import Any

import aiohttp
import openai

from .answer import Answer
from .asks import Ask

_LONGEST_S = 120.0
_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, openai.APIConnectionError, ConnectionError)
_TOO_LATE = (TimeoutError, openai.APITimeoutError)


class Client:
    """Connections to any number of gateways. No failure raises: each becomes its answer's error."""

    def __init__(self, key: str, model: str) -> None:
        self._key, self._model = key, model
        self._sdks: dict[str, openai.AsyncOpenAI] = {}

    async def __aenter__(self) -> Client:
        headers = {"Authorization": f"Bearer {self._key}"}
        timeout = aiohttp.ClientTimeout(total=_LONGEST_S)
        self._http = aiohttp.ClientSession(
            headers=headers, timeout=timeout, connector=aiohttp.TCPConnector(limit=0), read_bufsize=2**20
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()
        for sdk in self._sdks.values():
            await sdk.close()

    async def ask(self, base_url: str, ask: Ask, answer: Answer) -> None:
        """Fill in the answer while it comes. `base_url` ends in /v1."""
        answer.door = base_url
        try:
            await (self._by_sdk if ask.by_sdk else self._bare)(base_url, ask, answer)
        except (aiohttp.ClientError, openai.OpenAIError, OSError, ValueError, KeyError) as error:
            answer.broken = not answer.error and isinstance(error, _BROKEN) and not isinstance(error, _TOO_LATE)
            seen = f"after {len(answer.events_s)} events: " if answer.events_s else ""
            answer.error = answer.error or f"{seen}{type(error).__name__}: {error}"[:300]

    async def _bare(self, base_url: str, ask: Ask, answer: Answer) -> None:
        body = {"model": self._model, **ask.fields}
        headers = {"x-request-id": answer.request_id}
        async with self._http.post(f"{base_url}/{ask.path}", json=body, headers=headers) as response:
            if response.status != 200:
                answer.error = f"status {response.status}: {await response.text()}"[:300]
            elif ask.streams:
                async for line in response.content:
                    answer.line(line)
            else:
                answer.take(await response.json())
                answer.ended = True

    async def _by_sdk(self, base_url: str, ask: Ask, answer: Answer) -> None:
        if base_url not in self._sdks:
            self._sdks[base_url] = openai.AsyncOpenAI(
                base_url=base_url, api_key=self._key, max_retries=0, timeout=_LONGEST_S
            )
        sdk = self._sdks[base_url]
        fields: dict[str, Any] = {"model": self._model, **ask.fields}
        if fields.pop("ignore_eos", False):
            fields["extra_body"] = {"ignore_eos": True}
        create: Any = sdk.chat.completions.create if "messages" in fields else sdk.completions.create
        result = await create(**fields, extra_headers={"x-request-id": answer.request_id})
        if ask.streams:
            async for chunk in result:
                answer.take(chunk.model_dump())
        else:
            answer.take(result.model_dump())
        answer.ended = True  # the SDK hides [DONE], but not a connection that breaks


def begin(ask: Ask) -> Answer:
    """An answer of which nothing has come yet."""
    return Answer(ask.streams, time.monotonic(), uuid.uuid4().hex)
