"""Chat templates: the model's own, in a sandbox; a refusal is a 400 with the template's words."""

import json
from pathlib import Path

import pytest
from transformers.utils import chat_template_utils

from topmast_server.api.chat import ChatTemplate
from topmast_server.api.errors import ApiError
from topmast_server.api.protocol import Message
from topmast_server.weights.chat_template import template_of_directory, template_of_gguf
from topmast_server.weights.errors import ModelError
from topmast_server.weights.json_files import read_json

HELLO = [Message(role="user", content="hello")]


def render(source: str, messages: list[Message] = HELLO, **extra: object) -> str:
    return ChatTemplate(source, "<s>", "</s>").render(messages, extra)


def test_blocks_leave_no_white_space_behind() -> None:
    turn = "  {% if m.role == 'user' %}\n[{{ m.content }}]{% endif %}\n"
    source = "{{ bos_token }}{% for m in messages %}\n" + turn + "{% endfor %}"
    assert render(source) == "<s>[hello]"


def test_the_functions_that_templates_expect_are_there() -> None:
    assert render("{{ strftime_now('%Y')|length }}{{ messages[0]|tojson }}") == '4{"role": "user", "content": "hello"}'
    assert render("{{ messages[0].content|tojson(indent=2) }}") == '"hello"'
    assert render("{{ '<é>'|tojson }}") == '"<é>"'
    assert (
        render("{% for m in messages %}{% break %}{% endfor %}{{ enable_thinking }}", enable_thinking=False) == "False"
    )


TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": 'h"i <é>'},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "again"},
]


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}",
        "{% for m in messages %}\n  {%- generation -%} {% set x = m.content %}{{ x }} {%- endgeneration -%}\n{{ x }}"
        "{% endfor %}",
        "{{ messages | tojson(separators=(',', ':'), sort_keys=true) }}{{ messages | tojson(indent=1) }}",
        "{{ messages[1] | tojson(ensure_ascii=true) }}{% if tools is not none and tools %}x{% endif %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m['content'] | trim }}{% endfor %}{{ ns.n }}",
    ],
)
def test_a_template_says_what_transformers_has_it_say(source: str) -> None:
    template = chat_template_utils._compile_jinja_template(source)
    expected = template.render(messages=TURNS, tools=None, documents=None, add_generation_prompt=True)
    messages = [Message(role=turn["role"], content=turn["content"]) for turn in TURNS]
    assert render(source, messages) == expected


def written(folder: Path, **files: object) -> str | None:
    """The template that a directory of these files has; `_DOT_` in a name is a dot."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("_DOT_", ".")).write_text(text)
    return template_of_directory(folder, read_json(folder / "tokenizer_config.json", optional=True))


def test_a_directory_keeps_its_template_in_any_of_its_places(tmp_path: Path) -> None:
    """A list of templates was taken for none."""
    assert written(tmp_path) is None
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert written(tmp_path, tokenizer_config_DOT_json={"chat_template": named}) == "D"
    assert written(tmp_path, tokenizer_config_DOT_json={"chat_template": named[:1]}) == "T"
    assert written(tmp_path, tokenizer_config_DOT_json={"chat_template": "S"}) == "S"
    assert written(tmp_path, chat_template_DOT_json={"chat_template": "J"}) == "J"
    assert written(tmp_path, chat_template_DOT_jinja="F") == "F"


def test_of_several_templates_one_is_the_default(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "T"}, {"name": "rag", "template": "R"}]
    with pytest.raises(ModelError, match="tool_use, rag and none that is the default"):
        written(tmp_path, tokenizer_config_DOT_json={"chat_template": named})


@pytest.mark.parametrize("nonsense", [7, [], [7], [{}], [{"name": "default"}], [{"template": None}], {"name": "x"}])
def test_what_is_no_template_is_none(tmp_path: Path, nonsense: object) -> None:
    assert written(tmp_path, tokenizer_config_DOT_json={"chat_template": nonsense}) is None


def test_a_gguf_file_may_have_templates_by_name() -> None:
    key, path = "tokenizer.chat_template", Path("m.gguf")
    assert template_of_gguf({}, path) is None and template_of_gguf({key: 7}, path) is None
    assert template_of_gguf({key: "D", key + "s": ["tool_use"], key + ".tool_use": "T"}, path) == "D"
    assert template_of_gguf({key + "s": ["tool_use"], key + ".tool_use": "T"}, path) == "T"
    assert template_of_gguf({key + "s": [7, "x"]}, path) is None and template_of_gguf({key + "s": 7}, path) is None


def test_a_template_that_refuses_the_messages_is_a_bad_request() -> None:
    with pytest.raises(ApiError, match="roles must alternate") as caught:
        render("{{ raise_exception('roles must alternate') }}")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10000000) %}{% endfor %}",
        "{{ messages[7].content }}",
        "{{ 1 // 0 }}",
    ],
)
def test_a_hostile_or_broken_template_cannot_do_more_than_fail(source: str) -> None:
    with pytest.raises(ApiError) as caught:
        render(source)
    assert caught.value.status == 400


def test_a_template_that_is_not_jinja_stops_the_start() -> None:
    with pytest.raises(ModelError) as caught:
        ChatTemplate("{% for %}", None, None)
    assert caught.value.code == "ModelUnsupported"


def test_a_model_without_a_template_points_to_the_other_route() -> None:
    with pytest.raises(ApiError, match="/v1/completions"):
        ChatTemplate(None, None, None).render(HELLO)


def test_a_caller_cannot_replace_the_messages() -> None:
    with pytest.raises(ApiError, match="messages cannot be set"):
        ChatTemplate("{{ messages }}", None, None).render(HELLO, {"messages": []})


def test_developer_is_spoken_to_the_model_as_system() -> None:
    source = "{{ messages[0].role }}"
    assert render(source, [Message(role="developer", content="x")]) == "system"
