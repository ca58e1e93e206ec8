"""The `topmast` command in this process, and a Secret of keys that stands in for a cluster's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from topmast_cli.keys import options
from topmast_cli.keys.secret import Check
from topmast_cli.main import main


class Ended(NamedTuple):
    code: int
    output: str
    errors: str


@pytest.fixture
def topmast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs `topmast WORD...`, or another name of the program."""

    def run(*words: str, program: str = "/usr/bin/topmast") -> Ended:
        monkeypatch.setattr("sys.argv", [program, *words])
        with pytest.raises(SystemExit) as end:
            main()
        output = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Ended(end.value.code, output.out, output.err)

    return run


class SecretOfKeys(dict[str, str]):
    """What `KeySecret` does, without a cluster."""

    def entries(self) -> dict[str, str]:
        return dict(sorted(self.items()))

    def add(self, name: str, entry: str, check: Check) -> None:
        self.put(name, entry, check)

    def put(self, name: str, entry: str, check: Check) -> None:
        check(self)
        self[name] = entry

    def remove(self, name: str, check: Check) -> None:
        check(self)
        del self[name]


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> SecretOfKeys:
    """Takes the place of every Secret that `topmast key` and `topmast team` would open."""
    keys = SecretOfKeys()
    monkeypatch.setattr(options, "key_secret", lambda namespace, name, kubeconfig: keys)
    return keys
