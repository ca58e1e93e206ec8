"""How many tokens a prompt has, before an engine has read it: from its bytes and from earlier prompts of the model.

Learned from exact tallies alone, so a model whose engine tells nothing keeps the first guess.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from topmast_gateway.request import BYTES_PER_TOKEN, Ask
from topmast_gateway.tally import Tally

_WEIGHT: Final = 0.05  # of one prompt: about the last 20 count
_MOST_BYTES: Final = 4 * BYTES_PER_TOKEN  # what else a body holds must not make everybody's prompts look free
_MOST_MODELS: Final = 1000


class Estimates:
    """Bytes of a request's body per token of its prompt, by model."""

    def __init__(self) -> None:
        self._bytes: dict[str, float] = {}

    def better(self, ask: Ask, model: str) -> Ask:
        """The request with what is known of its model."""
        if (per_token := self._bytes.get(model)) is None:
            return ask
        prompt = max(1, round(len(ask.body) / per_token))
        return dataclasses.replace(ask, prompt=prompt, tokens=ask.tokens - ask.prompt + prompt)

    def learn(self, body_bytes: int, model: str, tally: Tally) -> None:
        """Take what a request really had into account."""
        if tally.exact and tally.prompt > 0 and (model in self._bytes or len(self._bytes) < _MOST_MODELS):
            known = self._bytes.get(model, float(BYTES_PER_TOKEN))
            self._bytes[model] = known + _WEIGHT * (min(body_bytes / tally.prompt, _MOST_BYTES) - known)
