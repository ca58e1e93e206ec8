"""The model's own Jinja template for chats, compiled in an immutable sandbox.

The template comes with the model file, so it is not trusted: no attribute writes, no imports, bounded ranges.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from topmast_server.weights.errors import unsupported


def compile_template(source: str) -> Template:
    """Done at start, so that a broken template stops the start and not every request.

    Raises ModelError(ModelUnsupported) where it is not valid Jinja.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source)
    except (TemplateError, RecursionError) as error:
        raise unsupported(
            f"the model's chat template cannot be compiled ({error}); repair tokenizer.chat_template in the model"
        ) from error


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    # Jinja's own filter escapes HTML, which no chat template wants.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
