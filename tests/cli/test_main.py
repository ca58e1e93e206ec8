"""The program finds its commands without paying for the others, and ends with one clear line."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from topmast_cli import app, commands, main
from topmast_cli.failure import Failure

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
HEAVY = {
    "serve": (
        "typer",
        "rich",
        "pydantic",
        "kubernetes",
        "kopf",
        "aiohttp",
        "fastapi",
        "topmast_operator",
        "topmast_gateway",
    ),
    "gateway": ("typer", "rich", "kopf", "torch", "topmast_operator", "topmast_server"),
    "operator": ("typer", "rich", "fastapi", "torch", "topmast_gateway", "topmast_server"),
    "version": ("typer", "rich", "kubernetes", "topmast_operator", "topmast_gateway", "topmast_server"),
}


class Point:
    """An entry point of the command `serve`."""

    name = "serve"

    def __init__(self, main: Callable[[], int]) -> None:
        self.load = lambda: main


def test_the_help_says_in_a_line_what_each_command_does(topmast: Callable[..., Any]) -> None:
    shown = topmast("--help")
    assert shown.code == 0 and shown.errors == ""
    for name, about in commands.ABOUT.items():
        assert f"  {name:<10}{about.sentence}\n" in shown.output  # whole: a long sentence would be cut off
    assert "  key       Make, list and revoke API keys" in shown.output
    assert "  team      Make, list and remove teams, whose keys share limits.\n" in shown.output
    assert topmast() == topmast("help") == topmast("-h") == shown


def test_every_command_that_is_handed_over_has_a_sentence_and_an_extra() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    assert set(project["entry-points"][commands.GROUP]) == set(commands.ABOUT)
    assert {about.extra for about in commands.ABOUT.values()} <= set(project["optional-dependencies"])


@pytest.mark.parametrize("name", HEAVY)
def test_a_command_imports_nothing_that_only_others_need(name: str) -> None:
    code = (
        f"import sys; from topmast_cli.main import main; sys.argv = ['topmast', {name!r}, '--help']\n"
        f"try: main()\nexcept SystemExit: print([name for name in {HEAVY[name]!r} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.splitlines()[-1] == "[]"


def test_the_version_is_that_of_the_installation(topmast: Callable[..., Any]) -> None:
    assert topmast("version") == topmast("--version") == (0, version("topmast") + "\n", "")


def test_a_command_of_another_package_gets_its_words_and_gives_the_exit_code(
    topmast: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def serve() -> int:
        seen.append(sys.argv)
        return 11

    monkeypatch.setattr(commands, "find", lambda name: Point(serve) if name == "serve" else None)
    assert topmast("serve", "model", "--port", "0").code == 11
    assert topmast("serve", "--help").code == 11  # its own help, not typer's
    assert app.run(["serve", "--nope"], "topmast") == 11  # where typer finds it, as in completion
    assert seen == [["topmast serve", "model", "--port", "0"], ["topmast serve", "--help"], ["topmast serve", "--nope"]]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("serv",), "topmast: No such command 'serv'. Did you mean 'serve'? (see topmast --help)"),
        (("--nope",), "topmast: No such option: --nope (see topmast --help)"),
        (("key",), "topmast key: Missing command (see topmast key --help)"),
        (("key", "create"), "topmast key create: Missing argument 'NAME' (see topmast key create --help)"),
        (
            ("key", "create", "x", "--weight"),
            "topmast key: Option '--weight' requires an argument (see topmast key --help)",
        ),
    ],
)
def test_wrong_usage_is_one_line(topmast: Callable[..., Any], words: tuple[str, ...], line: str) -> None:
    assert topmast(*words) == (2, "", line + "\n")


def test_a_terminal_and_a_log_are_told_the_same(topmast: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_log = topmast("key", "create"), topmast("--help")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert (topmast("key", "create"), topmast("--help")) == in_a_log


def test_kubectl_topmast_says_its_own_name(topmast: Callable[..., Any]) -> None:
    plugin = "/usr/local/bin/kubectl-topmast"
    assert topmast("key", program=plugin).errors.startswith("kubectl topmast key: Missing command")
    shown = topmast("--help", program=plugin)
    assert "Usage: kubectl topmast" in shown.output
    assert "--install-completion" not in shown.output  # what it would install completes another name


def test_a_missing_package_is_named_with_its_extra(
    topmast: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve() -> int:
        import uvloop  # noqa: F401

        return 0

    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(commands, "find", lambda name: Point(serve))
    assert topmast("serve") == (1, "", "topmast serve: the package uvloop is missing: pip install 'topmast[server]'\n")


def test_an_image_without_typer_still_has_a_list_of_commands(
    topmast: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "topmast_cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    shown = topmast("--help")
    assert (
        shown.code == 0 and "  serve     Serve a model" in shown.output and "pip install 'topmast[cli]'" in shown.output
    )
    assert topmast("key", "list") == (1, "", "topmast key: the package typer is missing: pip install 'topmast[cli]'\n")
    assert topmast("version").code == 0


def test_a_fault_of_ours_is_not_taken_for_a_missing_package() -> None:
    with pytest.raises(ModuleNotFoundError), commands.needs("cli"):
        import topmast_cli.no_such_module  # noqa: F401


def test_ctrl_c_is_no_traceback(topmast: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: list[str], program: str) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "_run", interrupted)
    assert topmast("key", "list") == (130, "", "")


def test_what_could_not_be_done_is_one_line(topmast: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(arguments: list[str], program: str) -> int:
        raise Failure("the Secret is gone: install the chart")

    monkeypatch.setattr(main, "_run", failed)
    assert topmast("key", "list") == (1, "", "topmast key: the Secret is gone: install the chart\n")
