"""A completion request as the gateway sees it: its bytes, and the few fields that decide how it is carried.

The body is passed on as it came. What it means beyond these fields is the engine's business.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topmast_gateway.asgi import Receive
from topmast_gateway.bands import band_of
from topmast_gateway.caller import Band
from topmast_gateway.errors import Refusal
from topmast_gateway.leaving import ClientGone
from topmast_gateway.prefix import NO_CHAIN, Chain, chain_of, session_digest

MAX_BODY_BYTES = 8 * 1024 * 1024
_BODY_PROGRESS_S, _BODY_PROGRESS_BYTES = 30.0, 64 * 1024  # so much must come in that time, or the body's end
BYTES_PER_TOKEN = 4  # English text; a guess that only has to rank pods
_ASSUMED_ANSWER_TOKENS = 256
_LONGEST_ANSWER_TOKENS = 32_768  # one absurd max_tokens must not make a pod look full for ever


_NO_JOURNAL = (
    *("logprobs", "top_logprobs", "prompt_logprobs", "tools", "functions", "structured_outputs", "best_of"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "use_beam_search", "echo"),
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for `model`; `tokens` estimates what it will cost a pod, prompt and answer together.

    `no_journal` says why its answer cannot go on elsewhere once it was begun, and is empty where it can: the state of a
    grammar, and several answers at once, are not in the tokens that were passed on.
    `chain` is what its prompt begins with, `session` a digest of what the caller named; both only help to pick a pod.
    """

    path: str
    body: bytes
    model: str
    stream: bool
    tokens: int
    no_journal: str = ""
    timeout_s: float | None = None  # the body's own, from the request's arrival
    prompt: int = 0  # of `tokens`
    band: Band | None = None  # that it asks for
    chain: Chain = NO_CHAIN
    session: bytes = b""
    fresh: int = 0  # of `prompt`: what no cache is expected to have
    answer: int = 0  # tokens that its answer is expected to have


def too_large() -> Refusal:
    """413 with the limit in it."""
    return Refusal(
        413,
        "request_too_large",
        f"the request body is larger than {MAX_BODY_BYTES} bytes: send a shorter prompt",
        headers=((b"connection", b"close"),),
    )


def announced_length(headers: Mapping[bytes, bytes]) -> int:
    """The body's announced size in bytes, 0 when it is not announced (chunked)."""
    value = headers.get(b"content-length", b"0")
    return int(value) if value.isdigit() and len(value) < 20 else 0


async def read_body(receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
    """The whole body; 413 as soon as it is known to be too large, 408 when it stops coming, or only drips."""
    if announced_length(headers) > MAX_BODY_BYTES:
        raise too_large()
    body = bytearray()  # no list of pieces: there can be millions of a byte each
    counted = 0
    try:
        async with asyncio.timeout(_BODY_PROGRESS_S) as clock:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    raise too_large()
                if not message.get("more_body", False):
                    return bytes(body)
                if len(body) >= counted + _BODY_PROGRESS_BYTES:
                    counted = len(body)
                    clock.reschedule(asyncio.get_running_loop().time() + _BODY_PROGRESS_S)
    except TimeoutError:
        raise Refusal(
            408,
            "request_timeout",
            f"the request body came too slowly for {_BODY_PROGRESS_S:.0f} s: send it again",
            headers=((b"connection", b"close"),),
        ) from None


def parse(path: str, body: bytes, session: bytes = b"") -> Ask:
    """Read what routing needs; a 400 that names the field when it is not there."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal(400, "invalid_json", f"the request body is not JSON: {reason}") from None
    if not isinstance(fields, dict):
        raise Refusal(400, "invalid_json", 'the request body must be a JSON object such as {"model": ...}')
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(400, "missing_model", "`model` must be the name of a model, a string", param="model")
    if "continuation" in fields:
        message = "`continuation` is between this gateway and its engines: send the whole conversation instead"
        raise Refusal(400, "reserved_field", message, param="continuation")
    stream, tokens, prompt = fields.get("stream") is True, estimate_tokens(fields, len(body)), _prompt_tokens(len(body))
    timeout_s, band = _seconds(fields.get("timeout")), band_of(fields.get("priority"))
    why, chain = why_no_journal(fields), chain_of(fields)
    return Ask(
        path,
        body,
        model,
        stream,
        tokens,
        why,
        timeout_s,
        prompt,
        band,
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
