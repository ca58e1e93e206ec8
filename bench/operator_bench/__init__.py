"""The operator with a thousand models: a real control plane, played nodes, engines that answer `/state`."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
for folder in ("tests", "tests/operator"):  # the tests' way to run an operator with exactly its rights
    if str(_ROOT / folder) not in sys.path:
        sys.path.insert(0, str(_ROOT / folder))
