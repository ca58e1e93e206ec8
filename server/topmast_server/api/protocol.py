"""The two request bodies, with a bound on every field that we read.

A field that we know but cannot honour is refused by name unless it holds its no-op value; a field that we do not know
is ignored, because OpenAI clients send many. Nothing here knows the model's limits (admission.py does).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_TOKEN_ID: Final = 2**31 - 1
MAX_PROMPTS: Final = 64
MAX_SEQUENCES: Final = 64
MAX_TIMEOUT_S: Final = 86400
PRIORITIES: Final = {"interactive": 0, "normal": 1, "batch": 2}

Finite = Annotated[float, Field(allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID, strict=True)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=8 * 2**20)]

# Known, not supported yet: the values that mean "not used", which clients send all the time.
_NO_OPS: Final[dict[str, tuple[Any, ...]]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "modalities": (["text"], []),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "echo": (False,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "truncate_prompt_tokens": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
}


def _is_same(value: Any, no_op: Any) -> bool:
    """In JSON, where 0 is not false: of completions `"logprobs": 0` asks for something."""
    return isinstance(value, bool) is isinstance(no_op, bool) and value == no_op


class StreamOptions(BaseModel):
    """`include_usage` adds one last chunk with the usage and no choices."""

    include_usage: bool = False


class Continuation(BaseModel):
    """The part of an answer that another server has made already: its tokens, and when that answer was created."""

    token_ids: Annotated[list[TokenId], Field(min_length=1)]
    created: Annotated[int, Field(ge=0)] | None = None


class Generation(BaseModel):
    """What both routes share."""

    model_config = ConfigDict(extra="ignore")

    model: Annotated[str, Field(min_length=1, max_length=512)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] = 1
    best_of: int | None = None
    temperature: Annotated[Finite, Field(ge=0, le=10)] = 1.0
    top_p: Annotated[Finite, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=10_000_000)] = 0
    min_p: Annotated[Finite, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Annotated[list[StopString], Field(max_length=16)] = []
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] = []
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    # Ours, and vLLM's. A timeout counts from the request's arrival.
    priority: Annotated[int, Field(ge=0, le=2, strict=True)] = PRIORITIES["normal"]
    timeout: Annotated[Finite, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    timing: bool = False
    continuation: Continuation | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_we_cannot_honour(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        for name, no_ops in _NO_OPS.items():
            value = body.get(name)
            if value is not None and not any(_is_same(value, no_op) for no_op in no_ops):
                raise ValueError(f"{name} is not supported by this server yet; leave it out")
        # null means "the default", as in OpenAI's API.
        return {name: value for name, value in body.items() if value is not None}

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_string_is_a_list(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @field_validator("priority", mode="before")
    @classmethod
    def _a_priority_may_be_named(cls, priority: Any) -> Any:
        if isinstance(priority, str):
            if priority not in PRIORITIES:
                raise ValueError(f"give {', '.join(PRIORITIES)}, or 0, 1 or 2")
            return PRIORITIES[priority]
        return priority

    @model_validator(mode="after")
    def _best_of_and_stream_options(self) -> Generation:
        if self.best_of not in (None, self.n):
            raise ValueError("best_of other than n is not supported; leave it out")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams only; set stream to true or leave it out")
        if self.continuation is not None and self.n > 1:
            raise ValueError("only a single answer can be continued; set n to 1")
        return self


class TextPart(BaseModel):
    """The only kind of content part that a text model takes."""

    type: Literal["text", "input_text"]
    text: Text


class Message(BaseModel):
    """One turn of a chat. Parts are joined; images and audio are refused."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text
    name: Annotated[str, Field(max_length=256)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, message: Any) -> Any:
        if not isinstance(message, dict):
            return message
        if message.get("tool_calls") or message.get("role") in ("tool", "function"):
            raise ValueError("tool calls are not supported by this server yet; send text messages only")
        content = message.get("content")
        if content is None and message.get("role") == "assistant":
            return {**message, "content": ""}
        if isinstance(content, list):
            return {**message, "content": "".join(_text_of(part) for part in content)}
        return message


def _text_of(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text") and isinstance(part.get("text"), str):
        return str(part["text"])
    if isinstance(kind, str) and kind not in ("text", "input_text"):
        raise ValueError(f"content of type {kind[:40]!r} cannot be read by a text model; send text parts only")
    raise ValueError('a content part must look like {"type": "text", "text": "..."}')


class ChatRequest(Generation):
    """`POST /v1/chat/completions`. Without max_tokens the answer may fill the rest of the context."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    chat_template_kwargs: Annotated[dict[str, bool | int | str], Field(max_length=16)] = {}

    @property
    def token_limit(self) -> int | None:
        """How many tokens the caller allows; None where the context is the only limit."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(Generation):
    """`POST /v1/completions`: one or several prompts, as text or as token ids. 16 tokens unless asked otherwise."""

    prompt: (
        Text
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MAX_PROMPTS)]
    )

    @property
    def token_limit(self) -> int:
        """OpenAI's default for this route is 16."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def prompts(self) -> list[str | list[int]]:
        """Always a list of prompts."""
        prompt = self.prompt
        if isinstance(prompt, str) or isinstance(prompt[0], int):
            return [prompt]
        return list(prompt)

    @model_validator(mode="after")
    def _bounded_sequences(self) -> CompletionRequest:
        if len(self.prompts) * self.n > MAX_SEQUENCES:
            raise ValueError(f"prompts times n is limited to {MAX_SEQUENCES}; send several requests instead")
        if self.continuation is not None and len(self.prompts) > 1:
            raise ValueError("only a single answer can be continued; send one prompt")
        return self
