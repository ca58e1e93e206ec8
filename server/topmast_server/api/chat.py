"""Chat messages to prompt text, by the model's own template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from topmast_server.api.errors import bad_request
from topmast_server.api.protocol import Message
from topmast_server.weights.chat_template import compile_template

_OURS = frozenset({"messages", "add_generation_prompt", "bos_token", "eos_token", "tools", "documents"})


class ChatTemplate:
    """Compiled once at start, so that a broken template stops the start and not every request."""

    def __init__(self, source: str | None, bos_token: str | None, eos_token: str | None) -> None:
        """Raises what `compile_template` raises; None means "has no template"."""
        self._template = None if source is None else compile_template(source)
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
