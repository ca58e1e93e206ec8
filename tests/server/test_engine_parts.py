"""The engine's small parts: the progress page, threads, memory, configuration."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from topmast_server.engine.config import EngineConfig
from topmast_server.engine.memory import memory_limit_bytes, size_kv
from topmast_server.engine.threads import thread_environment, usable_cores
from topmast_server.progress import Progress
from topmast_server.weights.errors import ModelError
from topmast_server.weights.matrix import LlamaShape

SHAPE = LlamaShape(49152, 576, 30, 9, 3, 64, 1536, 8192, 1e-5, 1e5, rope_interleaved=True)
TOKEN_BYTES = 30 * 2 * 3 * 64 * 4


def test_the_page_shows_another_process_s_steps() -> None:
    page = Progress()
    before = page.read()
    assert (before.steps, before.has_work, before.age_s()) == (0, False, 0.0)
    script = (
        "import sys; from topmast_server.progress import Progress; page = Progress(int(sys.argv[1]));"
        "page.step_done(0.25, has_work=True); page.step_done(0.5, has_work=True); page.step_done(0.1, has_work=True)"
    )
    subprocess.run([sys.executable, "-c", script, str(page.fileno())], pass_fds=[page.fileno()], check=True)
    seen = page.read()
    assert (seen.steps, seen.has_work, seen.slowest_recent_step_s) == (3, True, 0.5)
    assert 0 <= time.monotonic() - seen.last_tick_s < 30
    page.tick(has_work=False)
    assert not page.read().has_work
    page.close()


def test_a_slow_step_is_forgotten_after_many_fast_ones() -> None:
    page = Progress()
    page.step_done(5.0, has_work=True)
    for _ in range(100):
        page.step_done(0.01, has_work=True)
    assert page.read().slowest_recent_step_s == 0.01
    page.close()


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 1), ("50000 100000", 1), ("100000 100000", 1)])
def test_threads_follow_the_cgroup_quota(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path) == cores


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000")
    assert usable_cores(tmp_path) == usable_cores(tmp_path / "missing") == len(os.sched_getaffinity(0))


def test_the_user_s_own_thread_settings_win() -> None:
    environment = thread_environment({"OMP_NUM_THREADS": "7"})
    assert environment["OMP_NUM_THREADS"] == environment["NUMBA_NUM_THREADS"] == "7"
    assert environment["GOMP_SPINCOUNT"] == "1000"


def test_numba_and_torch_share_one_openmp_runtime() -> None:
    script = (
        "import torch; from topmast_kernels.cpu import compile; compile.load_all(); import numba;"
        "assert numba.threading_layer() == 'omp', numba.threading_layer();"
        "maps = open('/proc/self/maps').read().split('\\n');"
        "print(*{line.split()[-1] for line in maps if 'libgomp' in line})"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], env=thread_environment(), capture_output=True, text=True, check=True
    ).stdout
    assert len(output.split()) == 1
    assert "torch/lib" in output


def test_kv_size_follows_the_memory_limit(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(str(1 << 30))
    assert memory_limit_bytes(tmp_path) == 1 << 30
    size = size_kv(EngineConfig("model"), SHAPE, 4, limit_bytes=1 << 30)
    assert size.blocks == (1 << 28) // (32 * TOKEN_BYTES)
    assert size.max_model_len == size.blocks * 32  # one sequence always fits


def test_more_memory_than_all_sequences_need_is_not_taken() -> None:
    config = EngineConfig("model", max_model_len=128, max_num_seqs=2)
    assert size_kv(config, SHAPE, 4, limit_bytes=1 << 40).blocks == 2 * 128 // 32 + 1


@pytest.mark.parametrize(
    ("config", "code", "numbers"),
    [
        (EngineConfig("model", kv_cache_bytes=1 << 20), "OutOfMemory", ("1048576", "46080")),
        (EngineConfig("model", kv_cache_bytes=1 << 28, max_model_len=8192), "OutOfMemory", ("8192",)),
        (EngineConfig("model", max_model_len=9000), "ModelUnsupported", ("9000", "8192")),
    ],
)
def test_what_cannot_fit_is_refused_with_the_numbers(config: EngineConfig, code: str, numbers: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        size_kv(config, SHAPE, 4, limit_bytes=8 << 30)
    assert caught.value.code == code
    assert all(number in caught.value.message for number in numbers)


def test_configuration_survives_the_command_line() -> None:
    config = EngineConfig("/models/a b.gguf", max_model_len=77, kv_cache_bytes=1 << 30)
    assert EngineConfig.from_json(config.to_json()) == config
