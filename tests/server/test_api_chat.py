"""Chat templates: the model's own, in a sandbox; a refusal is a 400 with the template's words."""

import pytest

from topmast_server.api.chat import ChatTemplate
from topmast_server.api.errors import ApiError
from topmast_server.api.protocol import Message
from topmast_server.weights.errors import ModelError

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
