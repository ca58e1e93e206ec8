"""Chat messages to prompt text, by the model's own Jinja template in an immutable sandbox.

The template comes with the model file, so it is not trusted: no attribute writes, no imports, bounded ranges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from topmast_server.api.errors import bad_request
from topmast_server.api.protocol import Message
from topmast_server.weights.errors import unsupported

_OURS = frozenset({"messages", "add_generation_prompt", "bos_token", "eos_token", "tools", "documents"})


class ChatTemplate:
    """Compiled once at start, so that a broken template stops the start and not every request."""

    def __init__(self, source: str | None, bos_token: str | None, eos_token: str | None) -> None:
        """Raises ModelError(ModelUnsupported) for a template that is not valid Jinja; None means "has no template"."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = None if source is None else environment.from_string(source)
        except TemplateError as error:
            raise unsupported(
                f"the model's chat template cannot be compiled ({error}); repair tokenizer.chat_template in the model"
            ) from error
        self._tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}

    def render(self, messages: Sequence[Message], extra: Mapping[str, Any] | None = None) -> str:
        """The prompt, ending where the assistant's answer begins. 400 where the template refuses the messages."""
        if self._template is None:
            raise bad_request("this model has no chat template; send a prompt to /v1/completions", "messages")
        if extra and (taken := sorted(_OURS & extra.keys())):
            raise bad_request(f"{taken[0]} cannot be set here; leave it out", "chat_template_kwargs")
        turns = [_turn(message) for message in messages]
        try:
            return self._template.render(
                {**(extra or {}), **self._tokens, "messages": turns, "add_generation_prompt": True}
            )
        except SecurityError as error:
            raise bad_request(f"the model's chat template did something forbidden: {error}", "messages") from error
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            message = f"the model's chat template refuses these messages: {str(error)[:300]}"
            raise bad_request(message, "messages") from error


def _turn(message: Message) -> dict[str, str]:
    # "developer" is OpenAI's newer word for "system"; templates know only the latter.
    role = "system" if message.role == "developer" else message.role
    turn = {"role": role, "content": message.content}
    return turn if message.name is None else {**turn, "name": message.name}


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    # Jinja's own filter escapes HTML, which no chat template wants.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
