"""Registers, stack and load widths of every kernel, as the compiler gives them; no GPU takes part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

CAPABILITIES = (90, 80)


def write(folder: Path) -> int:
    """folder/kernel-resources.json, a line per kernel and configuration. Returns 1 if something did not compile."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    lines, bad, version = [], 0, ""
    for capability in CAPABILITIES:
        command = [sys.executable, "-W", "ignore", "-m", "topmast_kernels.gpu.compile_ahead"]
        run = subprocess.run(
            [*command, "--capability", str(capability)], env=environment, capture_output=True, text=True, check=True
        )
        report = json.loads(run.stdout)
        version = report["triton"]
        bad += len(report["failed"]) + len(report["without_case"])
        for each in (*report["failed"], *report["without_case"]):
            print(f"sm_{capability}: {each}", file=sys.stderr)
        lines += [json.dumps({"capability": capability, **each}) for each in report["compiled"]]
    folder.mkdir(parents=True, exist_ok=True)
    body = ",\n  ".join(lines)
    path = folder / "kernel-resources.json"
    path.write_text(f'{{"triton": "{version}", "kernels": [\n  {body}\n]}}\n')
    print(f"{len(lines)} kernels in {path}")
    return 1 if bad else 0
