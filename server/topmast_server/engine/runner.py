"""One planned step on the model: build the batch, run it, sample. Knows no queue and no pipe."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from topmast_server.engine.plan import Work
from topmast_server.engine.sampler import Draw, sample
from topmast_server.models.batch import Batch, Span
from topmast_server.models.llama import Llama


@dataclass(frozen=True, slots=True)
class Outcome:
    """The new token of each sampled piece of work, in its order (-1: its logits were not numbers), and the times."""

    tokens: list[int]
    forward_s: float
    sample_s: float


def run_step(model: Llama, work: list[Work]) -> Outcome:
    """Compute all of `work` in one forward pass."""
    started = time.perf_counter()
    batch = build_batch(work)
    logits = model.forward(batch)
    computed = time.perf_counter()
    draws = [
        Draw(piece.sequence.sampling, piece.sequence.seed, len(piece.sequence.tokens)) for piece in work if piece.sample
    ]
    tokens = sample(logits, draws) if draws else []
    return Outcome(tokens, computed - started, time.perf_counter() - computed)


def build_batch(work: list[Work]) -> Batch:
    """Rows in the order of `work`."""
    spans, sampled, rows = [], [], 0
    tokens: list[int] = []
    width = max(len(piece.sequence.blocks) for piece in work)
    tables = np.zeros((len(work), width), np.int32)
    for line, piece in enumerate(work):
        spans.append(Span(rows, piece.start, piece.count, line))
        tokens += piece.sequence.tokens[piece.start : piece.start + piece.count]
        tables[line, : len(piece.sequence.blocks)] = piece.sequence.blocks
        rows += piece.count
        if piece.sample:
            sampled.append(rows - 1)
    positions = [np.arange(piece.start, piece.start + piece.count) for piece in work]
    return Batch(
        tokens=np.array(tokens, np.int64),
        positions=np.concatenate(positions),
        spans=spans,
        tables=tables,
        sampled_rows=np.array(sampled, np.int64),
    )
