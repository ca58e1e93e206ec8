"""Clients that keep asking until told to stop, and remember what went wrong.

Closed loop: each client sends its next request when the last one has ended, or `pause_s` later. Half of the
requests stream, half do not.
A request has failed when the SDK raised; it is truncated when it ended without a finish reason or without usage.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field

import openai

PROMPTS = (
    "Name three colours of the rainbow.",
    "What is the capital of Japan?",
    "Write one sentence about a ship.",
    "Count from one to ten.",
    "Why is the sky blue?",
)


@dataclass
class Flow:
    """What came back: one entry per request that ended, in order of its end."""

    errors: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    ended_at: list[float] = field(default_factory=list)
    started: int = 0

    @property
    def finished(self) -> int:
        """Requests that ended well."""
        return len(self.ended_at)

    def longest_gap_s(self) -> float:
        """The longest time between two good answers."""
        return max((b - a for a, b in zip(self.ended_at, self.ended_at[1:], strict=False)), default=0.0)

    def assert_clean(self, at_least: int = 1) -> None:
        """No error, no truncated answer, and enough traffic that this says something."""
        assert self.errors == [], f"{len(self.errors)} of {self.started} requests failed: {self.errors[:3]}"
        assert self.truncated == [], f"{len(self.truncated)} answers were cut: {self.truncated[:3]}"
        assert self.finished >= at_least, f"only {self.finished} requests ended; the test shows nothing"


class Traffic:
    """`with Traffic(url, key, model, clients=4) as flow: ...` keeps the load up for the length of the block."""

    def __init__(
        self, base_url: str, key: str, model: str, *, clients: int = 3, max_tokens: int = 24, pause_s: float = 0.0
    ) -> None:
        self._client = {"base_url": base_url, "api_key": key, "max_retries": 0, "timeout": 120.0}
        self._model, self._clients, self._max_tokens, self._pause_s = model, clients, max_tokens, pause_s
        self._told = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")
        self.flow = Flow()

    def __enter__(self) -> Flow:
        self._thread.start()
        return self.flow

    def __exit__(self, *_: object) -> None:
        self._told.set()
        self._thread.join(timeout=180)
        assert not self._thread.is_alive(), "a request hangs: the traffic did not end within 180 s"

    async def _run(self) -> None:
        async with openai.AsyncOpenAI(**self._client) as client:  # type: ignore[arg-type]
            await asyncio.gather(*(self._one_client(client, number) for number in range(self._clients)))

    async def _one_client(self, client: openai.AsyncOpenAI, number: int) -> None:
        turn = number
        while not self._told.is_set():
            self.flow.started += 1
            ask = self._stream if turn % 2 else self._plain
            try:
                complete = await ask(client, PROMPTS[turn % len(PROMPTS)])
            except openai.OpenAIError as error:
                self.flow.errors.append(f"{type(error).__name__}: {error}"[:300])
                await asyncio.sleep(0.2)  # a dead server must not turn the driver into a busy loop
            else:
                if complete:
                    self.flow.ended_at.append(time.monotonic())
                else:
                    self.flow.truncated.append(f"client {number}, request {turn}")
            turn += 1
            await asyncio.sleep(self._pause_s)

    async def _plain(self, client: openai.AsyncOpenAI, prompt: str) -> bool:
        answer = await client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=self._max_tokens,
            temperature=0,
        )
        return answer.choices[0].finish_reason in ("stop", "length") and answer.usage is not None

    async def _stream(self, client: openai.AsyncOpenAI, prompt: str) -> bool:
        finish = usage = None
        stream = await client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=self._max_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
        return finish in ("stop", "length") and usage is not None
