"""Every kernel compiles for the GPUs we support, without one: no spills, 16-byte loads where they were promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

CAPABILITIES = (90, 80)


def start(capability: int, *only: str) -> subprocess.Popen[str]:
    """The compiler in a process of its own, because this one interprets."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-m", "topmast_kernels.gpu.compile_ahead"]
    command += ["--capability", str(capability), *(["--only", *only] if only else [])]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    report: dict[str, Any] = json.loads(out)
    return report


@pytest.fixture(scope="module")
def reports() -> dict[int, dict[str, Any]]:
    processes = {capability: start(capability) for capability in CAPABILITIES}  # side by side
    return {capability: result(process) for capability, process in processes.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_and_configuration_compiles(reports: dict[int, dict[str, Any]], capability: int) -> None:
    assert reports[capability]["failed"] == []
    assert reports[capability]["without_case"] == []
    assert reports[capability]["compiled"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_kernel_spills(reports: dict[int, dict[str, Any]], capability: int) -> None:
    assert [each for each in reports[capability]["compiled"] if each["stack_bytes"]] == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_wide_loads_are_wide(reports: dict[int, dict[str, Any]], capability: int) -> None:
    wanted = [each for each in reports[capability]["compiled"] if each["wide_loads_wanted"]]
    assert wanted
    assert [each for each in wanted if not each["wide_loads"] or each["wide_loads_in_code"] == 0] == []
    assert {each["kernel"] for each in wanted if each["wide_loads_in_code"]} == {each["kernel"] for each in wanted}


@pytest.mark.old_triton
def test_the_harness_works_with_this_triton() -> None:
    report = result(start(90, "silu"))
    assert report["failed"] == report["without_case"] == []
    assert {each["kernel"] for each in report["compiled"]} == {"_silu_mul"}
    assert all(each["wide_loads"] and not each["stack_bytes"] for each in report["compiled"])
