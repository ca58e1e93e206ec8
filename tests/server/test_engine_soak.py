"""Ten thousand requests with everything that can happen to them: every answer is right, and nothing is left behind."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator

import pytest
import torch

from server.content_model import VOCABULARY, answer_to, content_core
from topmast_server.engine.core import EngineCore
from topmast_server.messages import Sampling, Submit, Token
from topmast_server.models.batch import Batch

REQUESTS = 10_000
BLOCKS, SLOTS = 60, 12
RAISES, SPOILS = VOCABULARY - 1, VOCABULARY - 2  # tokens that no answer needs to have
GREEDY = Sampling(temperature=0.0)


def faults(batch: Batch, forward: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
    """A prompt's second token may be one that raises, or that makes its logits not numbers."""
    marked = batch.tokens[batch.positions == 1]
    if RAISES in marked:
        raise ValueError("a poisoned prompt")
    logits = forward(batch)
    for place, row in enumerate(batch.sampled_rows):
        if batch.positions[row] == 1 and batch.tokens[row] == SPOILS:
            logits[place] = float("nan")
    return logits


class Soak:
    """The clients: they arrive in bursts, some leave, some are in a hurry, some ask again with the answer in hand."""

    def __init__(self) -> None:
        self.random = random.Random(5)
        self.now_s = 0.0
        self.core: EngineCore = content_core(BLOCKS, slots=SLOTS, fault=faults, clock=lambda: self.now_s)
        self.heads = [[self.random.randrange(SPOILS) for _ in range(40)] for _ in range(6)]
        self.live: dict[str, tuple[Submit, list[int]]] = {}
        self.ends: dict[str, int] = {"length": 0, "error": 0, "deadline": 0, "cancelled": 0}
        self.turns: list[list[int]] = []
        self.preempted = 0

    def request(self, number: int) -> Submit:
        roll = self.random.random
        if self.turns and roll() < 0.2:
            prompt = self.turns.pop()
        else:
            prompt = self.random.choice(self.heads)[: self.random.randrange(2, 41)]
            prompt = [*prompt, *(self.random.randrange(SPOILS) for _ in range(self.random.randrange(12)))]
        if roll() < 0.01:
            prompt = [prompt[0], self.random.choice([RAISES, SPOILS])]
        return Submit(
            str(number),
            prompt,
            max_tokens=self.random.choice([1, 2, 4, 8, 8, 30]),
            sampling=GREEDY,
            ignore_eos=True,
            priority=self.random.randrange(3),
            deadline_s=self.now_s + self.random.uniform(0, 3) if roll() < 0.15 else None,
            cache_salt=self.random.choice(["", "", "", "other"]),
        )

    def take(self, token: Token) -> None:
        request, answer = self.live[token.request_id]
        if token.token_id >= 0:
            answer.append(token.token_id)
        if token.finish is None:
            return
        del self.live[token.request_id]
        self.ends[token.finish] += 1
        assert token.timing is not None
        self.preempted += token.timing.preemptions
        assert answer == answer_to(request.token_ids, len(answer))
        if token.finish == "length":
            assert len(answer) == request.max_tokens
            if len(request.token_ids) < 150:
                self.turns.append([*request.token_ids, *answer, 1])
        elif token.finish == "error":
            assert request.token_ids[1] in (RAISES, SPOILS)
        else:
            assert request.deadline_s is not None and request.deadline_s <= self.now_s

    def leave(self) -> None:
        name = self.random.choice(list(self.live))
        _, answer = self.live.pop(name)
        self.core.cancel(name)
        self.ends["cancelled"] += 1
        del answer

    def run(self) -> None:
        arrived = 0
        while arrived < REQUESTS or self.live:
            burst = min(self.random.choice([0, 0, 0, 1, 2, 12]), REQUESTS - arrived, 60 - len(self.live))
            for _ in range(burst):
                request = self.request(arrived)
                self.live[request.request_id] = (request, [])
                assert self.core.submit(request) == []
                arrived += 1
            if self.live and self.random.random() < 0.05:
                self.leave()
            for token in self.core.step():
                self.take(token)
            self.now_s += 0.05
            stats = self.core.stats()
            assert stats["running"] + stats["waiting"] == len(self.live)


@pytest.fixture(scope="module")
def soak() -> Iterator[Soak]:
    logging.disable(logging.CRITICAL)  # a hundred poisoned prompts have a hundred tracebacks
    try:
        soak = Soak()
        soak.run()
        yield soak
    finally:
        logging.disable(logging.NOTSET)


def test_ten_thousand_requests_end_as_they_should_and_leave_nothing(soak: Soak) -> None:
    stats = soak.core.stats()
    assert sum(soak.ends.values()) == stats["requests_total"] == REQUESTS
    assert all(count > 30 for count in soak.ends.values()), soak.ends
    assert stats["requests_finished_total"] == REQUESTS - soak.ends["cancelled"]
    assert stats["requests_cancelled_total"] == soak.ends["cancelled"]
    assert stats["deadline_total"] == soak.ends["deadline"]
    assert stats["failed_total"] == soak.ends["error"]
    assert stats["preemptions_total"] >= soak.preempted > 100
    assert stats["prefix_cache_hits_total"] > stats["prefix_cache_queries_total"] / 4
    assert (stats["running"], stats["waiting"], stats["kv_blocks_used"], stats["kv_tokens_used"]) == (0, 0, 0, 0)
    assert soak.core.check_when_idle() == []  # owners, free blocks, digests, awaited blocks and sequences
    assert stats["kv_blocks_known"] <= BLOCKS
