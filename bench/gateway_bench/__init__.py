"""What bench/gateway.py is made of: a cheap engine, a cheap client, a pinned gateway, scenarios, bars and a table.

It borrows the pieces of the gateway's tests that make a cluster's side, because a gateway cannot run without one.
"""

import sys
from pathlib import Path

# Before bench/ itself, whose gateway.py would hide the tests' package of that name.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
