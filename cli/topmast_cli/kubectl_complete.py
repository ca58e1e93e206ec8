"""Completion after `kubectl topmast`: kubectl runs `kubectl_complete-topmast WORD...` and offers what that prints."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import suppress

from topmast_cli.app import run

_NO_FILES = ":4"  # cobra's directive: nothing else is to be offered


def main() -> None:
    """Print what may stand in place of the last word, one a line, then the directive."""
    words = ["topmast", *sys.argv[1:]]
    os.environ["_TOPMAST_COMPLETE"] = "complete_bash"
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = shlex.join(words), str(len(words) - 1)
    with suppress(SystemExit):
        run([], "topmast")
    print(_NO_FILES)
