"""Requests in, tokens out, one step at a time. No process, no pipe, no loading: the engine as a plain object."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable
from functools import partial

from topmast_server.engine.faults import Computed, Isolation
from topmast_server.engine.kv import BlockPool
from topmast_server.engine.plan import Plan, Work
from topmast_server.engine.runner import run_step
from topmast_server.engine.scheduler import Scheduler
from topmast_server.engine.sequence import Sequence
from topmast_server.engine.stats import Counters, StepParts, snapshot
from topmast_server.engine.step_time import StepTime
from topmast_server.messages import Submit, Token
from topmast_server.models.llama import Llama

_NOT_A_NUMBER = "The model's output was not a number (NaN) for this request; other requests are not affected."
_FULL_BATCH = 16  # more rows add little to the rate on a CPU
_MOST_ROWS = 1024  # of one step: what the scratch memory of a forward pass is made for

_log = logging.getLogger(__name__)


class EngineCore:
    """Everything between Submit and Token."""

    def __init__(
        self,
        model: Llama,
        scheduler: Scheduler,
        step_time: StepTime,
        stop_ids: tuple[int, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.scheduler, self.step_time = model, scheduler, step_time
        self.stop_ids = frozenset(stop_ids)
        self.counters = Counters()
        self._clock = clock
        self._isolation = Isolation(partial(run_step, model))
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = 0
        self._checked = True  # nothing has happened since the books were last found in order

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
            arrival_s=self._clock(),
            priority=request.priority,
            deadline_s=math.inf if request.deadline_s is None else request.deadline_s,
            salt=request.cache_salt,
        )
        self._arrivals += 1
        self._sequences[request.request_id] = sequence
        self.scheduler.add(sequence)
        self._checked = False
        return []

    def cancel(self, request_id: str) -> None:
        """Free a request's blocks now; unknown ids (it has just finished) are fine."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self.scheduler.remove(sequence)
            self.counters.requests_cancelled += 1

    def step(self) -> list[Token]:
        """Plan, compute and sample once; every new token. Raises EngineBroken when the model can do nothing at all."""
        started_s = self._clock()
        plan = self.scheduler.plan_step(started_s)
        answers = [self._end(sequence, -1, "deadline") for sequence in plan.expired]
        if not plan.work:
            return answers
        planned_s = self._clock()
        computed = self._isolation.compute(plan.work)
        computed_s = self._clock()
        for work in plan.work:
            answers += self._take(work, computed, computed_s)
        done_s = self._clock()
        parts = StepParts(planned_s - started_s, computed.forward_s, computed.sample_s, done_s - computed_s)
        self.counters.step_done(parts)
        self._learn(plan, computed_s - started_s)
        return answers

    def stats(self) -> dict[str, float]:
        """For a Step frame; see stats.py."""
        return snapshot(self.scheduler, self.step_time, self.counters, compiled=self.model.kernels is not None)

    def check_when_idle(self) -> list[str]:
        """With nothing to do, see whether everything was given back; else say what was not, and begin new books.

        Cheap to call again: it looks only once after each time of work.
        """
        if self._checked or self.has_work:
            return []
        self._checked = True
        found = self.scheduler.tables.problems([])
        if self._sequences:
            found.append(f"{len(self._sequences)} sequences are neither waiting nor running")
        if found:
            _log.error("The KV cache's books did not add up and are begun afresh: %s", "; ".join(found))
            self.counters.integrity_failures += 1
            self._sequences.clear()
            self.scheduler.tables.reset()
        return found

    def forget_the_past(self) -> None:
        """After the warm-up: nothing cached, nothing counted; the times of steps stay."""
        self.scheduler.reset()
        self.counters = Counters()

    def _refusal(self, request: Submit) -> str | None:
        vocabulary = self.model.shape.vocabulary
        if request.request_id in self._sequences:
            return f"The request id {request.request_id} is in use; choose another one."
        if any(not 0 <= token < vocabulary for token in request.token_ids):
            return f"The prompt has token ids outside 0..{vocabulary - 1}; tokenise it with this model's tokenizer."
        return self.scheduler.refusal(len(request.token_ids))

    def _take(self, work: Work, computed: Computed, now_s: float) -> list[Token]:
        """What a piece of work has come to: nothing yet, a token, or the end of its sequence."""
        sequence = work.sequence
        error = computed.errors.get(sequence)
        token = computed.tokens.get(sequence, -1)
        if error is None and work.sample and token < 0:
            error = _NOT_A_NUMBER
        if error is not None:
            self.scheduler.tables.distrust(sequence)
            self.scheduler.remove(sequence)
            return [self._end(sequence, -1, "error", error)]
        self.scheduler.tables.advance(sequence, work.count)
        if not work.sample:
            return []
        sequence.tokens.append(token)
        is_first = sequence.first_token_s is None
        if is_first:
            sequence.first_token_s = now_s
        self.counters.output_tokens += 1
        stopped = token in sequence.stop_ids
        if stopped or sequence.made >= sequence.max_tokens:
            self.scheduler.remove(sequence)
            return [self._end(sequence, token, "stop" if stopped else "length")]
        # Told with the first token, too: a reader's stop string may end the answer before we do.
        timing = sequence.timing(now_s) if is_first else None
        return [Token(sequence.request_id, token, None, sequence.cached_tokens, None, timing)]

    def _end(self, sequence: Sequence, token: int, finish: str, error: str | None = None) -> Token:
        """The last token of a sequence that the scheduler has let go."""
        del self._sequences[sequence.request_id]
        self.counters.requests_finished += 1
        self.counters.failed += finish == "error"
        self.counters.deadline += finish == "deadline"
        timing = sequence.timing(self._clock())
        return Token(sequence.request_id, token, finish, sequence.cached_tokens, error, timing)

    def _learn(self, plan: Plan, seconds: float) -> None:
        chunks = [work for work in plan.work if work.count > 1 or not work.sample]
        rows = sum(work.count for work in chunks)
        position = sum((work.start + work.count // 2) * work.count for work in chunks) // rows if rows else 0
        decode_rows = len(plan.work) - len(chunks)
        self.counters.prefill_rows, self.counters.decode_rows = rows, decode_rows
        self.counters.prompt_tokens_computed += rows
        self.step_time.learn(decode_rows=decode_rows, prefill_rows=rows, position=position, seconds=seconds)


def make_core(
    model: Llama,
    *,
    blocks: int,
    max_num_seqs: int,
    max_model_len: int,
    itl_goal_s: float,
    stop_ids: tuple[int, ...],
    prefix_cache: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> EngineCore:
    """An engine around a loaded model."""
    step_time = StepTime(itl_goal_s, most=_MOST_ROWS + max_num_seqs, full_batch=min(_FULL_BATCH, max_num_seqs, blocks))
    scheduler = Scheduler(
        BlockPool(blocks, model.block_size),
        step_time,
        max_num_seqs=max_num_seqs,
        max_model_len=max_model_len,
        prefix_cache=prefix_cache,
    )
    return EngineCore(model, scheduler, step_time, stop_ids, clock)
