"""The shells, and kubectl for its plugin, offer the commands and what their flags take."""

from __future__ import annotations

import shlex

import pytest

from topmast_cli import kubectl_complete, main


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("",), {"serve", "check", "gateway", "operator", "version", "key", "team"}),
        (("key", "cr"), {"create"}),
        (("key", "create", "x", "--budget-"), {"--budget-tokens", "--budget-period"}),
        (("key", "create", "x", "--priority", ""), {"interactive", "normal", "batch"}),
        (("team", "s"), {"set"}),
        (("team", "set", "x", "--budget-period", ""), {"day", "month", "total"}),
        (("serve", "--po"), set()),
    ],
)
def test_what_may_come_next_is_offered(
    words: tuple[str, ...], offered: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["topmast"])
    monkeypatch.setenv("_TOPMAST_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", shlex.join(["topmast", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit):
        main.main()
    assert set(capsys.readouterr().out.split()) == offered
    monkeypatch.setattr("sys.argv", ["kubectl_complete-topmast", *words])
    kubectl_complete.main()
    *lines, directive = capsys.readouterr().out.split("\n")[:-1]
    assert {line for line in lines if line} == offered and directive == ":4"


def test_a_shell_is_given_a_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_TOPMAST_COMPLETE", "source_bash")
    monkeypatch.setattr("sys.argv", ["topmast"])
    with pytest.raises(SystemExit):
        main.main()
    assert "_TOPMAST_COMPLETE=complete_bash" in capsys.readouterr().out
