"""What a model's replicas and its queue amount to, in replicas: a pure function of what engines and gateways say.

Work is what engines were given (input over the measured prefill rate, output over the measured decode rate). Where
gateways hold back what engines have no place for, the queue says what there would be beyond it: how fast it grows is
what replicas are missing, and what was drained from it makes engines look busier than what comes keeps them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from topmast_operator.api.facts import EngineState, Facts, PodFacts, Queue
from topmast_operator.plan.findings import Patience, diagnose

STALE_S = 15.0
RATES_COVER_S = 20.0  # the window over which the engines' rates are measured
LONG_START = 3.0  # times the measured start p90, after which a replica is not expected to come up any more
SHORTEST_LONG_START_S = 300.0


@dataclass(frozen=True)
class Load:
    """What the replicas carry, in replica units (1.0 is all that one replica can do), and how far it can be trusted."""

    work: float = 0.0
    growth: float = 0.0  # what comes beyond what the replicas take
    drained: float = 0.0  # of `work`: a queue that is worked off, and will not come again
    kv: float = 0.0
    backlog_s: float = 0.0  # seconds that one replica would need for what waits, at engines and gateways
    waiting: int = 0  # requests at the gateways
    ready: int = 0
    starting: int = 0
    stuck: int = 0  # will not be ready without help or luck: neither supply nor a start to wait for
    unknown: int = 0  # ready replicas whose numbers are missing or stale
    blind: str = ""  # why the queue may be longer than this, or cannot be weighed

    @property
    def arriving(self) -> float:
        """The replicas that what comes would keep busy."""
        return max(0.0, self.work - self.drained) + self.growth


def measure(facts: Facts) -> Load:
    """The load of a model, summed over all of its pods and gateways."""
    load = Load()
    rates: list[tuple[float, float]] = []
    for pod in facts.pods:
        engine = pod.engine
        if pod.deleting or pod.draining or pod.ended:
            continue
        if not pod.ready and _is_stuck(pod, facts):
            load = replace(load, stuck=load.stuck + 1)
        elif not pod.ready:
            load = replace(load, starting=load.starting + 1)
        elif engine is None or not _is_telling(engine):
            load = replace(load, ready=load.ready + 1, unknown=load.unknown + 1)
        else:
            rates.append((engine.prefill_tokens_per_s, engine.decode_tokens_per_s))
            prefill_s = engine.offered_input_tokens_per_s / engine.prefill_tokens_per_s
            decode_s = engine.output_tokens_per_s / engine.decode_tokens_per_s
            load = replace(
                load,
                ready=load.ready + 1,
                work=load.work + prefill_s + decode_s,
                kv=load.kv + (engine.kv_tokens_used / engine.kv_tokens if engine.kv_tokens > 0 else 0.0),
                backlog_s=load.backlog_s + engine.waiting_prompt_tokens / engine.prefill_tokens_per_s,
            )
    return load if facts.queue is None else _with_queue(load, facts.queue, rates)


def _with_queue(load: Load, queue: Queue, rates: Sequence[tuple[float, float]]) -> Load:
    """The queue is weighed by what one of the replicas can do on average; without any it only holds what there is."""
    if not rates:
        nobody = "no replica that is ready tells how much of the queue it could take" if queue.requests else ""
        return replace(load, waiting=queue.requests, blind=queue.unknown or nobody)
    prefill = sum(prefill for prefill, _ in rates) / len(rates)
    decode = sum(decode for _, decode in rates) / len(rates)

    def in_replicas(prompt_tokens: float, output_tokens: float) -> float:
        return prompt_tokens / prefill + output_tokens / decode

    return replace(
        load,
        growth=in_replicas(queue.prompt_growth_per_s, queue.output_growth_per_s),
        drained=in_replicas(queue.prompt_drained, queue.output_drained) / RATES_COVER_S,
        backlog_s=load.backlog_s + in_replicas(queue.prompt_tokens, queue.output_tokens),
        waiting=queue.requests,
        blind=queue.unknown,
    )


def _is_telling(engine: EngineState) -> bool:
    return engine.age_s <= STALE_S and min(engine.prefill_tokens_per_s, engine.decode_tokens_per_s) > 0


def _is_stuck(pod: PodFacts, facts: Facts) -> bool:
    """Something is wrong with it, or it takes much longer than starts do."""
    policy = facts.model.rollout
    if pod.scheduled is False or diagnose(pod, Patience(facts.now, proven=True, deadline_s=policy.progress_deadline_s)):
        return True
    usual_s = facts.model.status.get("start", {}).get("p90Seconds")
    longest_s = policy.progress_deadline_s if usual_s is None else LONG_START * usual_s
    began = pod.scheduled_unix_s or pod.created_unix_s
    return facts.now - began > max(SHORTEST_LONG_START_S, longest_s)
