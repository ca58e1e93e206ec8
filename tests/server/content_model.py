"""A language model without arithmetic: its KV cache holds tokens, and its next token is a checksum of what it reads.

It runs under the real engine core. One token computed from a wrong, stale or foreign block changes every token after
it, and `answer_to` says what each answer must be.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from topmast_server.engine.core import EngineCore, make_core
from topmast_server.models.batch import Batch

VOCABULARY = 61
BLOCK = 8
Logits = NDArray[np.float32]
_WEIGHTS = np.arange(1, 4097) * 7 % 59 + 1


def next_token(tokens: list[int]) -> int:
    """What follows these tokens."""
    return int(np.dot(tokens, _WEIGHTS[: len(tokens)])) % VOCABULARY


def answer_to(prompt: list[int], count: int) -> list[int]:
    """The first `count` tokens of the only right answer."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


class ContentModel:
    """What the engine core asks of a model, and nothing more."""

    def __init__(self, blocks: int) -> None:
        self.block_size = BLOCK
        self.shape = SimpleNamespace(vocabulary=VOCABULARY)
        self.kernels = None
        self.cache = np.zeros((blocks, BLOCK), np.int64)

    def forward(self, batch: Batch) -> Logits:
        """Logits [sampled rows, vocabulary]: 1 for the checksum of the row's sequence up to the row."""
        tables = np.repeat(np.arange(len(batch.spans)), [span.count for span in batch.spans])
        lines = batch.tables[[span.table for span in batch.spans]]
        self.cache[lines[tables, batch.positions // BLOCK], batch.positions % BLOCK] = batch.tokens
        logits = np.zeros((len(batch.sampled_rows), VOCABULARY), np.float32)
        for place, row in enumerate(batch.sampled_rows):
            length = int(batch.positions[row]) + 1
            held = self.cache[lines[tables[row]]].ravel()[:length]
            logits[place, int(np.dot(held, _WEIGHTS[:length])) % VOCABULARY] = 1.0
        return logits


class Faulty:
    """Any model, and what `fault(batch, forward)` does to it: raise, or spoil the logits that `forward` gives."""

    def __init__(self, model: Any, fault: Callable[[Batch, Callable[[Batch], Logits]], Logits]) -> None:
        self.model, self.fault = model, fault

    def forward(self, batch: Batch) -> Logits:
        """The model's, with the fault."""
        return self.fault(batch, self.model.forward)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def content_core(
    blocks: int = 100,
    *,
    slots: int = 8,
    fault: Callable[[Batch, Callable[[Batch], Logits]], Logits] | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> EngineCore:
    """The real engine core around a content model."""
    model: Any = ContentModel(blocks)
    if fault is not None:
        model = Faulty(model, fault)
    return make_core(
        cast(Any, model),
        blocks=blocks,
        max_num_seqs=slots,
        max_model_len=1000,
        itl_goal_s=0.15,
        stop_ids=(),
        clock=clock,
    )
