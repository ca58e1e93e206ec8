"""One request's sequences on their way from tokens to visible text.

It decides where a choice ends for the reader (stop strings, finish reasons) and tells the engine when that is earlier
than the engine knows. It knows nothing of HTTP or of JSON.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from topmast_server.api.detokenize import Detokenizer, Vocabulary
from topmast_server.api.errors import ApiError, deadline_exceeded
from topmast_server.api.stop import StopStrings
from topmast_server.messages import Timing, Token
from topmast_server.supervisor.channel import Channel
from topmast_server.supervisor.supervisor import Sequence, Supervisor


class Observer(Protocol):
    """Who wants to know when tokens arrive (metrics)."""

    def token(self, since_s: float, at_s: float, *, first: bool) -> None:
        """A token of one sequence; `since_s` is its predecessor's time, or the request's arrival."""

    def finished(self, choice: Choice, arrived_s: float, at_s: float) -> None:
        """A choice ended with a reason."""


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of a choice, its finish reason, or both."""

    index: int
    text: str
    finish: str | None


class Choice:
    """One sequence as the reader sees it."""

    __slots__ = ("_news", "_stops", "_text", "cached_tokens", "finish", "first_at_s", "last_at_s", "timing", "tokens")

    def __init__(self, vocabulary: Vocabulary, stops: list[str], arrived_s: float) -> None:
        self._text = Detokenizer(vocabulary)
        self._stops = StopStrings(stops)
        self._news: list[int] = []
        self.tokens = 0
        self.cached_tokens = 0
        self.finish: str | None = None
        self.first_at_s: float | None = None
        self.last_at_s = arrived_s
        self.timing: Timing | None = None  # the engine's word; its decode time is missing where a stop string was found

    def over(self) -> bool:
        """Whether the reader has all of it."""
        return self.finish is not None

    def replay(self, token_ids: list[int]) -> str:
        """Tokens that another server has made: their text, which the reader has already unless the answer is whole."""
        self.tokens += len(token_ids)
        return "".join(self._stops.push(self._text.push(token_id)) for token_id in token_ids)

    def news(self) -> list[int]:
        """The tokens since the last call, those without text included."""
        news, self._news = self._news, []
        return news

    def take(self, token: Token) -> str:
        """What may be shown after this token; sets `finish` at the end."""
        if token.token_id >= 0:
            self.tokens += 1
            self._news.append(token.token_id)
        self.cached_tokens = max(self.cached_tokens, token.cached_tokens)
        self.timing = token.timing or self.timing
        text = ""
        if token.finish != "stop" and token.token_id >= 0:  # the token that ends a text is not part of it
            text = self._stops.push(self._text.push(token.token_id))
        if self._stops.hit:
            self.finish = "stop"
        elif token.finish is not None:
            text += self._stops.push(self._text.flush()) + self._stops.flush()
            self.finish = "stop" if self._stops.hit else token.finish
        return text


class Generation:
    """Use it in a `with`: leaving it ends in the engine whatever is still running there."""

    def __init__(
        self,
        supervisor: Supervisor,
        sequences: list[Sequence],
        choices: list[Choice],
        observer: Observer,
        arrived_s: float,
    ) -> None:
        self._supervisor = supervisor
        self._sequences = sequences
        self._observer = observer
        self.arrived_s = self.submitted_s = arrived_s
        self._channel = Channel()
        self._names: list[str] = []
        self.choices = choices
        self.left_early = 0  # sequences that were ended because nobody reads them any more

    def __enter__(self) -> Self:
        self.submitted_s = time.monotonic()
        self._names = self._supervisor.submit(self._channel, self._sequences)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._supervisor.cancel(self._names)

    def abandon(self, error: Exception) -> None:
        """End every sequence now; whoever waits in `pieces` gets `error`."""
        self.left_early += self._supervisor.cancel(self._names)
        self._channel.fail(error)

    @property
    def finished(self) -> bool:
        """Whether every choice has its reason."""
        return all(choice.over() for choice in self.choices)

    @property
    def started(self) -> bool:
        """Whether every prompt has been computed."""
        return all(choice.first_at_s is not None for choice in self.choices)

    async def pieces(self) -> list[Piece]:
        """What has become visible since the last call; waits for at least one token."""
        pieces = []
        for arrival in await self._channel.take():
            choice = self.choices[arrival.index]
            if choice.over():
                continue  # made by the step that was under way when a stop string was found
            if arrival.token.finish == "error":
                raise ApiError(500, arrival.token.error or "the generation failed", code="generation_failed")
            if arrival.token.finish == "deadline":
                raise self._too_late()
            text = choice.take(arrival.token)
            self._observer.token(choice.last_at_s, arrival.at_s, first=choice.first_at_s is None)
            choice.last_at_s = arrival.at_s
            choice.first_at_s = choice.first_at_s or arrival.at_s
            if choice.over():
                # A stop string is ours to find: the engine would go on.
                self._supervisor.cancel([self._names[arrival.index]])
                self._observer.finished(choice, self.arrived_s, arrival.at_s)
            if text or choice.over():
                pieces.append(Piece(arrival.index, text, choice.finish))
        return pieces

    def _too_late(self) -> ApiError:
        if any(choice.tokens for choice in self.choices):
            return deadline_exceeded("it passed before the answer was complete")
        return deadline_exceeded("it passed before the first token", retry_after_s=1)
