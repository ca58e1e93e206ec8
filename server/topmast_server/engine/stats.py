"""The numbers in every Step frame, documented here and nowhere else. They feed /state and /metrics.

running, waiting                        sequences now
waiting_prompt_tokens                   tokens of waiting sequences that are still to be computed
kv_tokens_used                          tokens of running sequences whose keys and values are in the cache
kv_blocks_total, kv_blocks_used, block_size
kv_blocks_known                         blocks whose content is found again by its digest, in use or not
input_tokens_total                      prompt tokens of every request that arrived (counted at arrival)
output_tokens_total                     tokens made
prompt_tokens_computed_total            prompt tokens computed, recomputation after a preemption included
prefix_cache_queries_total              prompt tokens of the requests that were admitted
prefix_cache_hits_total                 those of them that were found in the cache
requests_total                          equals finished + cancelled + running + waiting
requests_finished_total                 including those refused, failed and past their deadline
requests_cancelled_total, failed_total, deadline_total, preemptions_total
integrity_failures_total                times that the KV cache's books did not add up, and were begun afresh
prefill_tokens_per_s, decode_tokens_per_s   what this replica can do: measured over full steps, exponentially weighted
step_s                                  the last step: its duration, and its parts:
step_schedule_s, step_forward_s, step_sample_s, step_post_s
step_prefill_rows, step_decode_rows     what the last step computed
steps_total, schedule_s_total, forward_s_total, sample_s_total, post_s_total   of all steps, in seconds
compiled_kernels                        1 once the compiled CPU kernels are in use, 0 while torch stands in
"""

from __future__ import annotations

from dataclasses import dataclass, field

from topmast_server.engine.scheduler import Scheduler
from topmast_server.engine.step_time import StepTime


@dataclass(frozen=True, slots=True)
class StepParts:
    """Where one step's time went, in seconds."""

    schedule: float = 0.0  # planning
    forward: float = 0.0
    sample: float = 0.0
    post: float = 0.0  # tokens to their sequences, blocks to the cache, endings

    @property
    def total(self) -> float:
        """The whole step."""
        return self.schedule + self.forward + self.sample + self.post

    def __add__(self, other: StepParts) -> StepParts:
        return StepParts(
            self.schedule + other.schedule,
            self.forward + other.forward,
            self.sample + other.sample,
            self.post + other.post,
        )


@dataclass(slots=True)
class Counters:
    """What only ever grows, and the last step."""

    input_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_computed: int = 0
    requests: int = 0
    requests_finished: int = 0
    requests_cancelled: int = 0
    failed: int = 0
    deadline: int = 0
    integrity_failures: int = 0
    steps: int = 0
    last: StepParts = field(default_factory=StepParts)
    all: StepParts = field(default_factory=StepParts)
    prefill_rows: int = 0
    decode_rows: int = 0

    def step_done(self, parts: StepParts) -> None:
        """Count one step's time."""
        self.steps += 1
        self.last = parts
        self.all += parts


def snapshot(scheduler: Scheduler, step_time: StepTime, counters: Counters, *, compiled: bool) -> dict[str, float]:
    """The flat dictionary of a Step frame."""
    pool, last, whole = scheduler.pool, counters.last, counters.all
    return {
        "running": len(scheduler.running),
        "waiting": len(scheduler.waiting),
        "waiting_prompt_tokens": sum(sequence.remaining for sequence in scheduler.waiting),
        "kv_tokens_used": sum(sequence.computed for sequence in scheduler.running),
        "kv_blocks_total": pool.total,
        "kv_blocks_used": pool.used,
        "kv_blocks_known": pool.known,
        "block_size": pool.block_size,
        "input_tokens_total": counters.input_tokens,
        "output_tokens_total": counters.output_tokens,
        "prompt_tokens_computed_total": counters.prompt_tokens_computed,
        "prefix_cache_queries_total": scheduler.queried_tokens,
        "prefix_cache_hits_total": scheduler.hit_tokens,
        "preemptions_total": scheduler.preemptions,
        "requests_total": counters.requests,
        "requests_finished_total": counters.requests_finished,
        "requests_cancelled_total": counters.requests_cancelled,
        "failed_total": counters.failed,
        "deadline_total": counters.deadline,
        "integrity_failures_total": counters.integrity_failures,
        "prefill_tokens_per_s": step_time.prefill_tokens_per_s,
        "decode_tokens_per_s": step_time.decode_tokens_per_s,
        "step_s": last.total,
        "step_schedule_s": last.schedule,
        "step_forward_s": last.forward,
        "step_sample_s": last.sample,
        "step_post_s": last.post,
        "step_prefill_rows": counters.prefill_rows,
        "step_decode_rows": counters.decode_rows,
        "steps_total": counters.steps,
        "schedule_s_total": whole.schedule,
        "forward_s_total": whole.forward,
        "sample_s_total": whole.sample,
        "post_s_total": whole.post,
        "compiled_kernels": float(compiled),
    }
