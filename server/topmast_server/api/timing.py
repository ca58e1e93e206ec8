"""Where one request's time went, as its answer tells on demand: the model's part and the plumbing's.

Queue, prefill and decode are the engine's own measurements; the rest is taken where the request was answered.
"""

from __future__ import annotations

from typing import Any

from topmast_server.api.generation import Generation


def timing_object(generation: Generation) -> dict[str, Any]:
    """Milliseconds; of several choices the slowest counts. null where there was nothing to measure.

    tokenise_ms: from the whole request's arrival until the engine had it (parsing, template, tokens, the door).
    queued_ms, prefill_ms: waiting, and computing the prompt. decode_ms: first to last token, as sent to the client.
    tokens_per_s: all choices together, while they were decoded.
    """
    choices = generation.choices
    told = [choice.timing for choice in choices if choice.timing is not None]
    decode_s = max((c.last_at_s - c.first_at_s for c in choices if c.first_at_s is not None), default=0.0)
    further = sum(choice.tokens - 1 for choice in choices if choice.tokens)
    return {
        "tokenise_ms": _ms(generation.submitted_s - generation.arrived_s),
        "queued_ms": _ms(max(timing.queued_s for timing in told)) if told else None,
        "prefill_ms": _ms(max(timing.prefill_s for timing in told)) if told else None,
        "decode_ms": _ms(decode_s),
        "total_ms": _ms(max(choice.last_at_s for choice in choices) - generation.arrived_s),
        "preemptions": sum(timing.preemptions for timing in told),
        "tokens_per_s": round(further / decode_s, 1) if decode_s > 0 else None,
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
