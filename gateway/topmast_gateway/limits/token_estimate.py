"""What a request will take, before an engine has read it: from its bytes and from earlier requests of the model.

Learned from exact counts alone, so a model whose engine reports none keeps the first guess.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Final

import msgspec

from topmast_gateway.messages.completion import BYTES_PER_TOKEN, CompletionRequest
from topmast_gateway.messages.token_usage import TokenUsage

_WEIGHT: Final = 0.05  # of one request: about the last 20 count
_MOST_BYTES: Final = 4 * BYTES_PER_TOKEN  # what else a body holds must not make everybody's prompts look free
_MOST_MODELS: Final = 1000


@dataclasses.dataclass(slots=True)
class _Seen:
    """Means of a model's requests: bytes of the body per token of the prompt, tokens of prompt, cache, and answer; and
    how fast answers are generated.
    """

    bytes_per_token: float
    prompt: float
    cached: float
    answer: float
    per_s: float = 0.0  # tokens of one answer


class TokenEstimator:
    """What was seen of each model."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def refined(self, request: CompletionRequest, model: str) -> CompletionRequest:
        """The request with what is known of its model."""
        if (seen := self._seen.get(model)) is None:
            return request
        prompt = max(1, round(len(request.body) / seen.bytes_per_token))
        return msgspec.structs.replace(
            request,
            prompt=prompt,
            tokens=request.tokens - request.prompt + prompt,
            fresh=round(prompt * (1 - seen.cached / seen.prompt)),
            answer=round(seen.answer),
        )

    def learn(self, body_bytes: int, model: str, usage: TokenUsage, served_s: float = 0.0) -> None:
        """Take what a request really had into account; an engine worked on it for `served_s`."""
        if not usage.exact or usage.prompt <= 0:
            return
        if (seen := self._seen.get(model)) is None:
            if len(self._seen) >= _MOST_MODELS:
                return
            seen = self._seen[model] = _Seen(float(BYTES_PER_TOKEN), usage.prompt, usage.cached, usage.output)
        seen.bytes_per_token += _WEIGHT * (min(body_bytes / usage.prompt, _MOST_BYTES) - seen.bytes_per_token)
        seen.prompt += _WEIGHT * (usage.prompt - seen.prompt)
        seen.cached += _WEIGHT * (usage.cached - seen.cached)
        seen.answer += _WEIGHT * (usage.output - seen.answer)
        if served_s > 0 and usage.output:
            per_s = usage.output / served_s
            seen.per_s = per_s if not seen.per_s else seen.per_s + _WEIGHT * (per_s - seen.per_s)

    def made_within(self, request: CompletionRequest, model: str, served_s: float) -> int:
        """Tokens that an engine has probably generated for a request in this time: at most what it may have."""
        most = max(0, request.tokens - request.prompt)
        seen = self._seen.get(model)
        if seen is None or not seen.per_s:
            return most
        return min(most, math.ceil(seen.per_s * served_s * request.answers))
