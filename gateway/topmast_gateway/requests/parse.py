"""Reads of a completion request's body what decides how it is carried: a 400 names the field that is wrong.

What the body means beyond these fields is the engine's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from topmast_gateway.identity.caller import Priority
from topmast_gateway.messages.completion import BYTES_PER_TOKEN, CompletionRequest
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.routing.prefix_hash import prefix_chain, session_digest

_ASSUMED_ANSWER_TOKENS = 256
_LONGEST_ANSWER_TOKENS = 32_768  # one absurd max_tokens must not make a pod look full for ever
_NO_JOURNAL = (
    *("logprobs", "top_logprobs", "prompt_logprobs", "tools", "functions", "structured_outputs", "best_of"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "use_beam_search", "echo"),
)


def parse_completion(path: str, body: bytes, session: bytes = b"") -> CompletionRequest:
    """Read what routing needs; a 400 that names the field when it is not there."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, "invalid_json", f"the request body is not JSON: {reason}") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "invalid_json", 'the request body must be a JSON object such as {"model": ...}')
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "missing_model", "`model` must be the name of a model, a string", param="model")
    if "continuation" in fields:
        message = "`continuation` is between this gateway and its engines: send the whole conversation instead"
        raise ApiError(400, "reserved_field", message, param="continuation")
    stream, tokens, prompt = fields.get("stream") is True, estimate_tokens(fields, len(body)), _prompt_tokens(len(body))
    timeout_s, priority = _seconds(fields.get("timeout")), parse_priority(fields.get("priority"))
    why, chain = why_no_journal(fields), prefix_chain(fields)
    return CompletionRequest(
        path,
        body,
        model,
        stream,
        tokens,
        why,
        timeout_s,
        prompt,
        priority,
        chain,
        session_digest(session),
        fresh=prompt,
        answer=min(tokens - prompt, _ASSUMED_ANSWER_TOKENS),
    )


def why_no_journal(fields: Mapping[str, Any]) -> str:
    """Why an answer to this request cannot be continued; empty where it can."""
    for name in _NO_JOURNAL:
        if fields.get(name):
            return f"answers with {name} are not continued elsewhere"
    shape = fields.get("response_format")
    if isinstance(shape, dict) and shape.get("type") != "text":
        return "answers with response_format are not continued elsewhere"
    if fields.get("n") not in (None, 1) or _has_several_prompts(fields):
        return "several answers at once are not continued elsewhere"
    return ""


def _seconds(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < 1e9 else None


def estimate_tokens(fields: Mapping[str, Any], body_bytes: int) -> int:
    """Prompt tokens by size plus the answers' upper bound, per choice and prompt. Nonsense counts as absent.

    Of two bounds the larger one counts: which one an engine goes by depends on the route.
    """
    answer = max(_count(fields, "max_completion_tokens"), _count(fields, "max_tokens")) or _ASSUMED_ANSWER_TOKENS
    prompts = len(fields["prompt"]) if _has_several_prompts(fields) else 1
    answers = min((_count(fields, "n") or 1) * prompts, 128)
    return max(1, _prompt_tokens(body_bytes) + min(answer, _LONGEST_ANSWER_TOKENS) * answers)


def _has_several_prompts(fields: Mapping[str, Any]) -> bool:
    prompt = fields.get("prompt")
    return isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)


def _count(fields: Mapping[str, Any], name: str) -> int:
    """A number above 0 as engines read it, who take "20" and 20.0 for it as well; else 0."""
    try:
        return max(0, int(float(fields.get(name) or 0)))
    except (TypeError, ValueError, OverflowError):
        return 0


def _prompt_tokens(body_bytes: int) -> int:
    return body_bytes // BYTES_PER_TOKEN


_PRIORITIES: Final = {priority.name.lower(): priority for priority in Priority}


def parse_priority(value: Any) -> Priority | None:
    """By name or number. None where it is absent, and for nonsense, which the engine refuses with a better sentence."""
    if isinstance(value, str):
        return _PRIORITIES.get(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return Priority(value) if is_number and value in _PRIORITIES.values() else None
