"""Reads of a completion request's body what decides how it is carried: a 400 names the field that is wrong.

Fields are looked at one by one, and only as far as they matter here: what a body means beyond that is the engine's
business, and no body takes long, whatever is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

import msgspec

from topmast_gateway.identity.caller import Priority
from topmast_gateway.messages.completion import BYTES_PER_TOKEN, CompletionRequest
from topmast_gateway.messages.errors import ApiError
from topmast_gateway.routing.prefix_hash import MOST_READ_BYTES, is_set, prefix_chain, session_digest

_ASSUMED_ANSWER_TOKENS = 256
_LONGEST_ANSWER_TOKENS = 32_768  # one absurd max_tokens must not make a pod look full for ever
_MOST_ANSWERS = 128
_LONGEST_SCALAR = 64  # of a number, a word or null
_NO_JOURNAL = (
    *("logprobs", "top_logprobs", "prompt_logprobs", "tools", "functions", "structured_outputs", "best_of"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "use_beam_search", "echo"),
)
_NO_JOURNAL_NAMES: Final = frozenset(_NO_JOURNAL)
_FIELDS: Final = tuple(
    dict.fromkeys(
        (
            *("model", "stream", "max_tokens", "max_completion_tokens", "n"),
            *("timeout", "priority", "prompt", "messages"),
            *("continuation", "cache_salt", "response_format", "chat_template", "chat_template_kwargs", "documents"),
            *_NO_JOURNAL,
        )
    )
)
_PRIORITIES: Final = {priority.name.lower(): priority for priority in Priority}
_ABSENT: Final = msgspec.Raw(b"")
_Body: Final = msgspec.defstruct("_Body", [(name, msgspec.Raw, _ABSENT) for name in _FIELDS])
_decoder: Final = msgspec.json.Decoder(_Body)
_text_decoder: Final = msgspec.json.Decoder(str)
_scalar_decoder: Final = msgspec.json.Decoder()
_prompts_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw])


class _ResponseFormat(msgspec.Struct):
    type: str | None = None


_format_decoder: Final = msgspec.json.Decoder(_ResponseFormat)


def parse_completion(path: str, body: bytes | bytearray, session: bytes = b"", tenant: str = "") -> CompletionRequest:
    """Read what routing needs; a 400 that names the field when it is not there. A `body` that can grow is extended.

    `tenant` is who shares cached prompts, and "" is everybody: the body that goes to the engine gets a `cache_salt` of
    the tenant's own, derived from the one that it came with.
    """
    fields = _fields(body)
    model = _text(fields.get("model", b""))
    if not model:
        raise ApiError(400, "missing_model", "`model` must be the name of a model, a string", param="model")
    if "continuation" in fields:
        message = "`continuation` is between this gateway and its engines: send the whole conversation instead"
        raise ApiError(400, "reserved_field", message, param="continuation")
    salt = _text(fields["cache_salt"]) if "cache_salt" in fields else ""
    if tenant:
        salt = _tenant_salt(tenant, salt)
        body = _salted(body, salt)
    answers, prompt = count_answers(fields), len(body) // BYTES_PER_TOKEN
    tokens = estimate_tokens(fields, len(body), answers)
    return CompletionRequest(
        path,
        body,
        model,
        _stream(fields.get("stream", b"")),
        tokens,
        why_no_journal(fields),
        _seconds(_scalar(fields["timeout"])) if "timeout" in fields else None,
        prompt,
        parse_priority(_scalar(fields["priority"])) if "priority" in fields else None,
        prefix_chain(fields, salt),
        session_digest(session),
        fresh=prompt,
        answer=min(tokens - prompt, _ASSUMED_ANSWER_TOKENS),
        answers=answers,
    )


@lru_cache(1024)
def _tenant_salt(tenant: str, salt: str) -> str:
    return blake2b(f"{tenant}\0{salt}".encode(errors="surrogatepass"), digest_size=16, person=b"tenant").hexdigest()


def _salted(body: bytes | bytearray, salt: str) -> bytearray:
    """The body with this salt as its last field: the last one of two counts. In place, because a copy takes time."""
    grown = body if isinstance(body, bytearray) else bytearray(body)
    del grown[grown.rindex(b"}") :]
    grown += b',"cache_salt":"%b"}' % salt.encode()
    return grown


def _fields(body: bytes | bytearray) -> dict[str, bytes]:
    """The JSON of each field that matters, unread, and the beginning of a longer one; absent ones are left out."""
    try:
        found = _decoder.decode(body)
    except msgspec.ValidationError:
        raise ApiError(400, "invalid_json", 'the request body must be a JSON object such as {"model": ...}') from None
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ApiError(400, "invalid_json", f"the request body is not JSON: {error}") from None
    except RecursionError:
        raise ApiError(400, "invalid_json", "the request body is not JSON: it is nested too deeply") from None
    present = [
        (name, raw) for name, raw in zip(_FIELDS, msgspec.structs.astuple(found), strict=True) if raw is not _ABSENT
    ]
    if len(body) <= MOST_READ_BYTES:
        return {name: bytes(raw) for name, raw in present}
    return {name: bytes(memoryview(raw)[:MOST_READ_BYTES]) for name, raw in present}


def why_no_journal(fields: Mapping[str, bytes]) -> str:
    """Why an answer to this request cannot be continued; empty where it can."""
    for name in () if _NO_JOURNAL_NAMES.isdisjoint(fields) else _NO_JOURNAL:
        if is_set(fields.get(name, b"")):
            return f"answers with {name} are not continued elsewhere"
    if (shape := fields.get("response_format", b"")).startswith(b"{") and _format_type(shape) != "text":
        return "answers with response_format are not continued elsewhere"
    if ("n" in fields and _scalar(fields["n"]) not in (None, 1)) or _has_several_prompts(fields):
        return "several answers at once are not continued elsewhere"
    return ""


def parse_priority(value: Any) -> Priority | None:
    """By name or number. None where it is absent, and for nonsense, which the engine refuses with a better sentence."""
    if isinstance(value, str):
        return _PRIORITIES.get(value)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return Priority(value) if is_number and value in _PRIORITIES.values() else None


def estimate_tokens(fields: Mapping[str, bytes], body_bytes: int, answers: int) -> int:
    """Prompt tokens by size plus the answers' upper bound, for so many of them. Nonsense counts as absent.

    Of two bounds the larger one counts: which one an engine goes by depends on the route.
    """
    longest = max(_count(fields, "max_completion_tokens"), _count(fields, "max_tokens")) or _ASSUMED_ANSWER_TOKENS
    return max(1, body_bytes // BYTES_PER_TOKEN + min(longest, _LONGEST_ANSWER_TOKENS) * answers)


def count_answers(fields: Mapping[str, bytes]) -> int:
    """How many it asks for, per choice and prompt, as far as it matters."""
    prompts = _prompts(fields["prompt"]) if _has_several_prompts(fields) else 1
    return min((_count(fields, "n") or 1) * prompts, _MOST_ANSWERS)


def _stream(value: bytes) -> bool:
    if value in (b"", b"null", b"false"):
        return False
    if value == b"true":
        return True
    raise ApiError(400, "invalid_type", "`stream` must be true or false", param="stream")


def _format_type(shape: bytes) -> str | None:
    try:
        return _format_decoder.decode(shape).type
    except (msgspec.MsgspecError, RecursionError):
        return None


def _text(value: bytes) -> str:
    """A string; empty for anything else."""
    try:
        return _text_decoder.decode(value) if value.startswith(b'"') else ""
    except msgspec.MsgspecError:
        return ""


def _scalar(value: bytes) -> Any:
    """A number, a word or None: what is longer than one is none."""
    try:
        return _scalar_decoder.decode(value) if 0 < len(value) <= _LONGEST_SCALAR else None
    except msgspec.MsgspecError:
        return None


def _seconds(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < 1e9 else None


def _has_several_prompts(fields: Mapping[str, bytes]) -> bool:
    prompt = fields.get("prompt", b"")
    return prompt.startswith(b"[") and prompt[1:].lstrip()[:1] in (b'"', b"[")


def _prompts(prompt: bytes) -> int:
    """How many there are, as far as it matters."""
    if len(prompt) >= MOST_READ_BYTES or prompt.count(b",") > 65_536:
        return _MOST_ANSWERS
    try:
        return len(_prompts_decoder.decode(prompt))
    except (msgspec.MsgspecError, RecursionError):
        return 1


def _count(fields: Mapping[str, bytes], name: str) -> int:
    """A number above 0 as engines read it, who take "20" and 20.0 for it as well; else 0."""
    if name not in fields:
        return 0
    try:
        return max(0, int(float(_scalar(fields[name]) or 0)))
    except (TypeError, ValueError, OverflowError):
        return 0
