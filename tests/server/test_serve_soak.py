"""Ten thousand requests over HTTP, with cancels, deadlines and priorities, in a pool that is too small for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(__file__).parents[2] / "bench" / "serving.py"


@pytest.mark.long
@pytest.mark.timeout(3600)  # four minutes of a quiet machine
def test_ten_thousand_requests_over_http_leave_nothing_behind(tmp_path: Path, record: dict[str, Any]) -> None:
    command = [sys.executable, str(COMMAND), "--only", "soak", "--results", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (report,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    (found,) = report["runs"]["topmast"]
    assert found["requests"] == 10_000 and found["complete"] > 0
    assert found["clean"] == 1, found  # nothing runs, waits or holds KV, and the counters are the client's
    record |= {name: found[name] for name in ("requests", "complete", "refused", "left", "deadline", "preemptions")}
