"""Every kernel compiles for the GPUs we support, without one: no spills, 16-byte loads where they were promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from topmast_kernels.gpu.compile_table import kernel_modules

SHARED_BYTES = {80: 163 << 10, 90: 227 << 10}  # per thread block, from the CUDA programming guide
REGISTERS = 65536
RESOURCES = Path(__file__).parents[2] / "bench" / "results" / "kernel-resources.json"


def start(capability: int, *options: str) -> subprocess.Popen[str]:
    """The compiler in a process of its own, because this one interprets."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-m", "topmast_kernels.gpu.compile_ahead"]
    command += ["--capability", str(capability), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    report: dict[str, Any] = json.loads(out)
    return report


@pytest.fixture(scope="module")
def reports() -> list[dict[str, Any]]:
    """Everything for sm_90, in two processes of about the same length, and everything for sm_80."""
    filtered = [name for name in kernel_modules() if name.startswith("filtered")]
    others = [name for name in kernel_modules() if not name.startswith("filtered")]
    return [result(each) for each in (start(90, "--only", *filtered), start(90, "--only", *others), start(80))]


def compiled(reports: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for report in reports for each in report["compiled"]]


@pytest.mark.timeout(900)
def test_every_kernel_and_configuration_compiles(reports: list[dict[str, Any]]) -> None:
    assert [report["failed"] for report in reports] == [[], [], []]
    assert [report["without_case"] for report in reports] == [[], [], []]
    assert all(report["compiled"] for report in reports)


def test_no_kernel_spills(reports: list[dict[str, Any]]) -> None:
    assert [each for each in compiled(reports) if each["stack_bytes"]] == []


def test_every_kernel_fits_a_multiprocessor(reports: list[dict[str, Any]]) -> None:
    """Otherwise it compiles and cannot be started."""
    for report in reports:
        most = SHARED_BYTES[report["capability"]]
        assert [each for each in report["compiled"] if each["shared_bytes"] > most] == []
        assert [each for each in report["compiled"] if each["registers"] * each["warps"] * 32 > REGISTERS] == []


def test_wide_loads_are_wide(reports: list[dict[str, Any]]) -> None:
    wanted = [each for each in compiled(reports) if each["wide_loads_wanted"]]
    assert [each for each in wanted if not each["wide_loads"] or each["wide_loads_in_code"] == 0] == []
    assert {each["kernel"] for each in wanted if each["wide_loads_in_code"]} == {each["kernel"] for each in wanted}
    assert wanted


def test_the_committed_resources_are_those_of_these_kernels(reports: list[dict[str, Any]]) -> None:
    committed = json.loads(RESOURCES.read_text())
    old = committed["kernels"]
    new = [{"capability": report["capability"], **each} for report in reports for each in report["compiled"]]
    stale = [each for each in new if each not in old] + [each for each in old if each not in new]
    assert stale == [], "run python bench/kernels.py --resources and commit what it writes"


@pytest.mark.old_triton
def test_the_harness_works_with_this_triton() -> None:
    report = result(start(90, "--only", "silu"))
    assert report["failed"] == report["without_case"] == []
    assert {each["kernel"] for each in report["compiled"]} == {"_silu_mul"}
    assert all(each["wide_loads"] and not each["stack_bytes"] for each in report["compiled"])


def test_the_check_finds_what_it_looks_for() -> None:
    script = "import json, broken_kernels; from topmast_kernels.gpu import compile_ahead as c; "
    script += "c.load = lambda name: broken_kernels; print(json.dumps(c.compile_all(90, ['broken'])))"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    folder = Path(__file__).parent
    command = [sys.executable, "-W", "ignore", "-c", script]
    run = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    report = result(run)
    found = {each["case"]: each for each in report["compiled"]}
    assert found["spills"]["stack_bytes"] > 0
    assert found["narrow"]["wide_loads"] == found["narrow"]["wide_loads_in_code"] == 0
    assert report["without_case"] == ["broken.forgotten"]
    errors = {each["case"]: each["error"] for each in report["failed"]}
    assert set(errors) == {"looks", "nothing"}
    assert "meta" in errors["looks"] and "starts no forgotten" in errors["nothing"]
