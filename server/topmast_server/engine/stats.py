"""The numbers in every Step frame, documented here and nowhere else. They feed /state and /metrics.

running, waiting                        sequences now
waiting_prompt_tokens                   tokens of waiting sequences that are still to be computed
kv_tokens_used                          tokens whose keys and values are in the cache
kv_blocks_total, kv_blocks_used, block_size
input_tokens_total                      prompt tokens of every request that arrived (counted at arrival)
output_tokens_total                     tokens made
prompt_tokens_computed_total            prompt tokens computed, recomputation after a preemption included
preemptions_total, requests_total, requests_finished_total, requests_cancelled_total
prefill_tokens_per_s, decode_tokens_per_s   what this replica can do: measured over full steps, exponentially weighted
step_s                                  the last step: its duration, and its parts:
step_schedule_s, step_forward_s, step_sample_s
step_prefill_rows, step_decode_rows     what the last step computed
compiled_kernels                        1 once the compiled CPU kernels are in use, 0 while torch stands in
"""

from __future__ import annotations

from dataclasses import dataclass

from topmast_server.engine.pace import Pace
from topmast_server.engine.scheduler import Scheduler


@dataclass(slots=True)
class Counters:
    """What only ever grows, and the parts of the last step."""

    input_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_computed: int = 0
    requests: int = 0
    requests_finished: int = 0
    requests_cancelled: int = 0
    schedule_s: float = 0.0
    forward_s: float = 0.0
    sample_s: float = 0.0
    prefill_rows: int = 0
    decode_rows: int = 0


def snapshot(scheduler: Scheduler, pace: Pace, counters: Counters, *, compiled: bool) -> dict[str, float]:
    """The flat dictionary of a Step frame."""
    pool = scheduler.pool
    return {
        "running": len(scheduler.running),
        "waiting": len(scheduler.waiting),
        "waiting_prompt_tokens": sum(sequence.remaining for sequence in scheduler.waiting),
        "kv_tokens_used": sum(sequence.computed for sequence in scheduler.running),
        "kv_blocks_total": pool.total,
        "kv_blocks_used": pool.used,
        "block_size": pool.block_size,
        "input_tokens_total": counters.input_tokens,
        "output_tokens_total": counters.output_tokens,
        "prompt_tokens_computed_total": counters.prompt_tokens_computed,
        "preemptions_total": scheduler.preemptions,
        "requests_total": counters.requests,
        "requests_finished_total": counters.requests_finished,
        "requests_cancelled_total": counters.requests_cancelled,
        "prefill_tokens_per_s": pace.prefill_tokens_per_s,
        "decode_tokens_per_s": pace.decode_tokens_per_s,
        "step_s": counters.schedule_s + counters.forward_s + counters.sample_s,
        "step_schedule_s": counters.schedule_s,
        "step_forward_s": counters.forward_s,
        "step_sample_s": counters.sample_s,
        "step_prefill_rows": counters.prefill_rows,
        "step_decode_rows": counters.decode_rows,
        "compiled_kernels": float(compiled),
    }
