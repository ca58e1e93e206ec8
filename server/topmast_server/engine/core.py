"""Requests in, tokens out, one step at a time. No process, no pipe, no loading: the engine as a plain object."""

from __future__ import annotations

import secrets
import time

from topmast_server.engine.kv import BlockPool
from topmast_server.engine.pace import Pace
from topmast_server.engine.runner import run_step
from topmast_server.engine.scheduler import Plan, Scheduler, Work
from topmast_server.engine.sequence import Sequence
from topmast_server.engine.stats import Counters, snapshot
from topmast_server.messages import Submit, Token
from topmast_server.models.llama import Llama

_NOT_A_NUMBER = "The model's output was not a number (NaN) for this request; other requests are not affected."
_FULL_BATCH = 16  # more rows add little to the rate on a CPU


class EngineCore:
    """Everything between Submit and Token."""

    def __init__(self, model: Llama, scheduler: Scheduler, pace: Pace, stop_ids: tuple[int, ...]) -> None:
        self.model, self.scheduler, self.pace = model, scheduler, pace
        self.stop_ids = frozenset(stop_ids)
        self.counters = Counters()
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = 0

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        return self.scheduler.has_work

    def submit(self, request: Submit) -> list[Token]:
        """Take a request; one that can never be served is answered at once."""
        self.counters.requests += 1
        self.counters.input_tokens += len(request.token_ids)
        refusal = self._refusal(request)
        if refusal is not None:
            self.counters.requests_finished += 1
            return [Token(request.request_id, -1, "error", error=refusal)]
        seed = request.sampling.seed
        sequence = Sequence(
            request_id=request.request_id,
            tokens=list(request.token_ids),
            prompt_len=len(request.token_ids),
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            seed=secrets.randbits(63) if seed is None else seed,
            stop_ids=frozenset(request.stop_token_ids) | (frozenset() if request.ignore_eos else self.stop_ids),
            arrival=self._arrivals,
        )
        self._arrivals += 1
        self._sequences[request.request_id] = sequence
        self.scheduler.add(sequence)
        return []

    def cancel(self, request_id: str) -> None:
        """Free a request's blocks now; unknown ids (it has just finished) are fine."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self.scheduler.remove(sequence)
            self.counters.requests_cancelled += 1

    def step(self) -> list[Token]:
        """Plan, compute and sample once; every new token."""
        started = time.perf_counter()
        somebody_decodes = any(sequence.remaining == 1 for sequence in self.scheduler.running)
        plan = self.scheduler.plan_step(self.pace.token_budget(somebody_decodes=somebody_decodes))
        if not plan.work:
            return []
        self.counters.schedule_s = time.perf_counter() - started
        outcome = run_step(self.model, plan.work)
        self.counters.forward_s, self.counters.sample_s = outcome.forward_s, outcome.sample_s
        self._count(plan, time.perf_counter() - started)
        for work in plan.work:
            work.sequence.computed += work.count
        sampled = [work for work in plan.work if work.sample]
        return [self._take(work, token) for work, token in zip(sampled, outcome.tokens, strict=True)]

    def stats(self) -> dict[str, float]:
        """For a Step frame; see stats.py."""
        return snapshot(self.scheduler, self.pace, self.counters, compiled=self.model.kernels is not None)

    def _refusal(self, request: Submit) -> str | None:
        vocabulary = self.model.shape.vocabulary
        if request.request_id in self._sequences:
            return f"The request id {request.request_id} is in use; choose another one."
        if any(not 0 <= token < vocabulary for token in request.token_ids):
            return f"The prompt has token ids outside 0..{vocabulary - 1}; tokenise it with this model's tokenizer."
        return self.scheduler.refusal(len(request.token_ids))

    def _take(self, work: Work, token: int) -> Token:
        """Append a sampled token, or end the sequence."""
        sequence = work.sequence
        if token < 0:
            self._finish(sequence)
            return Token(sequence.request_id, -1, "error", error=_NOT_A_NUMBER)
        sequence.tokens.append(token)
        self.counters.output_tokens += 1
        finish = None
        if token in sequence.stop_ids:
            finish = "stop"
        elif sequence.made >= sequence.max_tokens:
            finish = "length"
        if finish is not None:
            self._finish(sequence)
        return Token(sequence.request_id, token, finish)

    def _finish(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request_id]
        self.scheduler.remove(sequence)
        self.counters.requests_finished += 1

    def _count(self, plan: Plan, seconds: float) -> None:
        decode_rows = sum(work.count for work in plan.work if work.count == 1 and work.sample)
        prefill_rows = sum(work.count for work in plan.work) - decode_rows
        self.counters.prefill_rows, self.counters.decode_rows = prefill_rows, decode_rows
        self.counters.prompt_tokens_computed += prefill_rows
        self.pace.learn(prefill_rows=prefill_rows, decode_rows=decode_rows, seconds=seconds)


def make_core(
    model: Llama, *, blocks: int, max_num_seqs: int, max_model_len: int, itl_goal_s: float, stop_ids: tuple[int, ...]
) -> EngineCore:
    """An engine around a loaded model."""
    scheduler = Scheduler(BlockPool(blocks, model.block_size), max_num_seqs=max_num_seqs, max_model_len=max_model_len)
    full_batch = min(_FULL_BATCH, max_num_seqs, blocks)
    pace = Pace(itl_goal_s, least=max(16, max_num_seqs), most=1024, full_batch=full_batch)
    return EngineCore(model, scheduler, pace, stop_ids)
