"""The KV cache never takes more than there is, whatever the command line says."""

from __future__ import annotations

import pytest

from topmast_server.engine.config import EngineConfig
from topmast_server.engine.memory_plan import MemoryPlan, fit_kv, kv_bytes, plan_memory
from topmast_server.weights.errors import ModelError
from topmast_server.weights.matrix import LlamaShape

MIB = 2**20
SHAPE = LlamaShape(
    vocabulary=49152,
    hidden=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_size=64,
    mlp=1536,
    context=8192,
    epsilon=1e-5,
    rope_base=1e5,
    rope_interleaved=True,
)
SMALL = MemoryPlan(limit=700 * MIB, taken=350 * MIB, reserve=250 * MIB)
LARGE = MemoryPlan(limit=64 * 1024 * MIB, taken=350 * MIB, reserve=350 * MIB)


def test_an_automatic_cache_is_cut_to_what_is_left() -> None:
    config = EngineConfig("m")
    size = fit_kv(config, SHAPE, 4, SMALL)
    assert 90 * MIB < kv_bytes(size, config, SHAPE, 4) <= SMALL.room == 100 * MIB
    assert size.max_model_len == size.blocks * config.block_size


def test_an_asked_for_cache_that_fits_is_taken_as_it_is() -> None:
    config = EngineConfig("m", kv_cache_bytes=80 * MIB)
    for plan in (SMALL, LARGE):
        assert 75 * MIB < kv_bytes(fit_kv(config, SHAPE, 4, plan), config, SHAPE, 4) <= 80 * MIB


def test_an_asked_for_cache_that_does_not_fit_is_refused_with_the_number_that_would() -> None:
    with pytest.raises(ModelError, match=rf"--kv-cache-bytes {500 * MIB} does not fit.*at most {100 * MIB}") as caught:
        fit_kv(EngineConfig("m", kv_cache_bytes=500 * MIB), SHAPE, 4, SMALL)
    assert caught.value.code == "OutOfMemory"


def test_no_room_at_all_is_told_before_anything_is_killed() -> None:
    with pytest.raises(ModelError, match="raise the memory limit") as caught:
        fit_kv(EngineConfig("m"), SHAPE, 4, MemoryPlan(300 * MIB, 350 * MIB, 250 * MIB))
    assert caught.value.code == "OutOfMemory"


def test_the_plan_counts_both_processes_and_adds_up() -> None:
    plan = plan_memory(100 * MIB)
    assert plan.taken > 100 * MIB
    assert plan.limit > plan.taken
    config = EngineConfig("m")
    size = fit_kv(config, SHAPE, 4, LARGE)
    full = kv_bytes(size, config, SHAPE, 4)
    note = LARGE.note(size, 32, full, 94 * MIB)
    left = (LARGE.limit - LARGE.taken - full) // MIB
    assert f"94 MiB weights, {full / MIB:.0f} MiB KV" in note and f"{left} MiB of 65536 MiB left" in note
    assert f"{size.blocks} blocks, {size.blocks * 32} tokens" in note
