"""The model's own Jinja template for chats: where a model keeps it, and how it is compiled, in an immutable sandbox.

The template comes with the model file, so it is not trusted: no attribute writes, no imports, bounded ranges. What it
may use beyond Jinja is what transformers gives it (utils/chat_template_utils.py there).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from topmast_server.weights.errors import unsupported
from topmast_server.weights.json_files import read_json, unreadable

_DEFAULT = "default"


def template_of_directory(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The template of a Hugging Face directory: of its newest place that has one. None where there is none."""
    jinja = folder / "chat_template.jinja"
    if jinja.exists():
        try:
            return jinja.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise unreadable(jinja, error) from error
    in_json = read_json(folder / "chat_template.json", optional=True)
    return _chosen(in_json.get("chat_template"), folder) or _chosen(tokenizer_config.get("chat_template"), folder)


def template_of_gguf(metadata: Mapping[str, Any], path: Path) -> str | None:
    """The template of a GGUF file, which may have further ones by name."""
    if isinstance(template := metadata.get("tokenizer.chat_template"), str):
        return template
    names = metadata.get("tokenizer.chat_templates")
    if not isinstance(names, list):
        return None
    return _chosen(
        [{"name": name, "template": metadata.get(f"tokenizer.chat_template.{name}")} for name in names], path
    )


def _chosen(found: Any, where: Path) -> str | None:
    """The template, where there is one, or of several with names the default one."""
    if isinstance(found, str):
        return found
    entries = [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    named = {entry.get("name"): entry["template"] for entry in entries if isinstance(entry.get("template"), str)}
    if len(named) > 1 and _DEFAULT not in named:
        names = ", ".join(map(str, named))
        raise unsupported(f"{where} has the chat templates {names} and none that is the default: name one {_DEFAULT!r}")
    return named.get(_DEFAULT) or next(iter(named.values()), None)


def compile_template(source: str) -> Template:
    """Done at start, so that a broken template stops the start and not every request.

    Raises ModelError(ModelUnsupported) where it is not valid Jinja.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationBlocks]
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


class _GenerationBlocks(Extension):
    """`{% generation %}` says which tokens the assistant made, for those who train; the text is the same without it."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """What stands between the tags, in a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which no chat template wants.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
