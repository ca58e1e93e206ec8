"""One request as the engine knows it: its tokens, how many of them are computed, and the blocks that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field

from topmast_server.messages import Sampling


@dataclass(slots=True, eq=False)
class Sequence:
    """Mutable; owned by the scheduler. `computed` tokens of `tokens` have their keys and values in `blocks`."""

    request_id: str
    tokens: list[int]
    prompt_len: int
    max_tokens: int
    sampling: Sampling
    seed: int
    stop_ids: frozenset[int]
    arrival: int  # order of arrival; older ones go first
    computed: int = 0
    blocks: list[int] = field(default_factory=list)

    @property
    def remaining(self) -> int:
        """Tokens not computed yet: 1 in decode, more in prefill."""
        return len(self.tokens) - self.computed

    @property
    def made(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_len
