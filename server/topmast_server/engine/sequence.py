"""One request as the engine knows it: its tokens, how many of them are computed, and the blocks that hold them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from topmast_server.messages import Sampling, Timing

AGEING_S = 30.0  # a class behind counts as so many seconds later: who has waited that long is ahead of newcomers


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
    arrival: int  # order of arrival, which decides between equals
    arrival_s: float = 0.0  # CLOCK_MONOTONIC, as every time here
    priority: int = 1  # 0 interactive, 1 normal, 2 batch
    deadline_s: float = math.inf
    salt: str = ""  # prefixes are shared among sequences with the same salt
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)  # of its full blocks, as far as anybody asked
    offered: int = 0  # leading blocks that are computed and known to the pool under their digests
    cached_tokens: int = 0  # found in the cache when it was first admitted
    preemptions: int = 0
    admitted_s: float | None = None
    first_token_s: float | None = None
    rank: tuple[float, int] = field(init=False)  # who has the lower one goes first

    def __post_init__(self) -> None:
        self.rank = (self.arrival_s + self.priority * AGEING_S, self.arrival)

    @property
    def remaining(self) -> int:
        """Tokens not computed yet: 1 in decode, more in prefill."""
        return len(self.tokens) - self.computed

    @property
    def made(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_len

    def timing(self, now_s: float) -> Timing:
        """Where its time went, if it ends now."""
        admitted_s = now_s if self.admitted_s is None else self.admitted_s
        first_token_s = now_s if self.first_token_s is None else self.first_token_s
        return Timing(admitted_s - self.arrival_s, first_token_s - admitted_s, now_s - first_token_s, self.preemptions)
